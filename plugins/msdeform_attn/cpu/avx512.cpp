/* The CPU kernel with AVX-512 (F and DQ), 16 floats a register. Called only where the machine has it. */
#include <immintrin.h>

#include "cpu/simd_kernel.h"
#include "cpu/vector8.h"

namespace {

struct Vector16 {
  using Float = __m512;
  using Int = __m512i;
  using Mask = __mmask16;
  using Eight = Vector8;
  static constexpr int width = 16;

  static Float set(float x) { return _mm512_set1_ps(x); }
  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static Float load_tail(const float* p, int count) { return _mm512_maskz_loadu_ps(first_lanes(count), p); }
  static void store(float* p, Float x) { _mm512_storeu_ps(p, x); }
  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static Float floor(Float x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  static Float round(Float x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Float scale(Float x, Float exponent) { return _mm512_scalef_ps(x, exponent); }
  static Float exp(Float x) {
    // -inf would become NaN on the way (inf - inf); below -104 all is 0.
    return exp_series<Vector16>(_mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, set(-104.0f), _CMP_LT_OQ), set(-104.0f)));
  }

  static Mask less_equal(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  static Mask less(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask less_equal_int(Int a, Int b) { return _mm512_cmple_epi32_mask(a, b); }
  static Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
  static Float keep(Mask mask, Float x) { return _mm512_maskz_mov_ps(mask, x); }
  static void store_bits(uint8_t* bits, int first, Mask mask) { __builtin_memcpy(bits + first / 8, &mask, 2); }

  static Int set_int(int32_t x) { return _mm512_set1_epi32(x); }
  static Int load_int(const int32_t* p) { return _mm512_loadu_si512(p); }
  static void store_int(int32_t* p, Int x) { _mm512_storeu_si512(p, x); }
  static Int add_int(Int a, Int b) { return _mm512_add_epi32(a, b); }
  static Int mul_int(Int a, Int b) { return _mm512_mullo_epi32(a, b); }
  static Int min_int(Int a, Int b) { return _mm512_min_epi32(a, b); }
  static Int max_int(Int a, Int b) { return _mm512_max_epi32(a, b); }
  static Int to_int(Float x) { return _mm512_cvttps_epi32(x); }

  static void load_pairs(const float* p, Float& x, Float& y) { part(load(p), load(p + 16), x, y); }
  static void load_pairs_tail(const float* p, int count, Float& x, Float& y) {
    const int second = count > 8 ? count - 8 : 0;
    part(load_tail(p, count > 8 ? 16 : 2 * count), second ? load_tail(p + 16, 2 * second) : set(0.0f), x, y);
  }

 private:
  static __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }
  static void part(Float low, Float high, Float& x, Float& y) {
    const Int even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    x = _mm512_permutex2var_ps(low, even, high);
    y = _mm512_permutex2var_ps(low, _mm512_add_epi32(even, set_int(1)), high);
  }
};

}  // namespace

namespace ovavss_msda {

void run_avx512(const Job& job, int64_t task, float* scratch) { run_form<Vector16>(job, task, scratch); }

}  // namespace ovavss_msda
