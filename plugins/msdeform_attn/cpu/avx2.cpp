/* The CPU kernel with AVX2 and FMA, 8 floats a register. Called only where the machine has them. */
#include "cpu/simd_kernel.h"
#include "cpu/vector8.h"

namespace ovavss_msda {

void run_avx2(const Job& job, int64_t task, float* scratch) { run_form<Vector8>(job, task, scratch); }

}  // namespace ovavss_msda
