/* The CPU kernel with AVX2 and FMA, 8 floats a register. Called only where the machine has them. */
#include "cpu/simd_kernel.h"
#include "cpu/vector8.h"

namespace ovavss_msda {

void run_avx2(const Job& job, int64_t begin, int64_t end) { run_form<Vector8>(job, begin, end); }

}  // namespace ovavss_msda
