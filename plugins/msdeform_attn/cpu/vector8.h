/* 8 floats in one AVX2 register. Include after simd_kernel.h, in a translation unit compiled for AVX2 and FMA. */
#ifndef OVAVSS_MSDA_CPU_VECTOR8_H
#define OVAVSS_MSDA_CPU_VECTOR8_H

#include <immintrin.h>

namespace {

struct Vector8 {
  using Float = __m256;
  using Int = __m256i;
  using Mask = __m256;
  using Eight = Vector8;
  static constexpr int width = 8;

  static Float set(float x) { return _mm256_set1_ps(x); }
  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  static Float load_tail(const float* p, int count) { return _mm256_maskload_ps(p, first_lanes(count)); }
  static void store(float* p, Float x) { _mm256_storeu_ps(p, x); }
  static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static Float floor(Float x) { return _mm256_floor_ps(x); }
  static Float round(Float x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Float scale(Float x, Float exponent) {
    const Int biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23)));
  }
  static Float exp(Float x) {
    // Below -87 the result is not a normal number: 0. A NaN compares false and stays.
    const Mask tiny = _mm256_cmp_ps(x, set(-87.0f), _CMP_LT_OQ);
    return _mm256_andnot_ps(tiny, exp_series<Vector8>(_mm256_andnot_ps(tiny, x)));
  }

  static Mask less_equal(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
  static Mask less(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static Mask less_equal_int(Int a, Int b) {
    return _mm256_castsi256_ps(_mm256_xor_si256(_mm256_cmpgt_epi32(a, b), _mm256_set1_epi32(-1)));
  }
  static Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
  static Float keep(Mask mask, Float x) { return _mm256_and_ps(mask, x); }
  static void store_bits(uint8_t* bits, int first, Mask mask) {
    bits[first / 8] = static_cast<uint8_t>(_mm256_movemask_ps(mask));
  }

  static Int set_int(int32_t x) { return _mm256_set1_epi32(x); }
  static Int load_int(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const Int*>(p)); }
  static void store_int(int32_t* p, Int x) { _mm256_storeu_si256(reinterpret_cast<Int*>(p), x); }
  static Int add_int(Int a, Int b) { return _mm256_add_epi32(a, b); }
  static Int mul_int(Int a, Int b) { return _mm256_mullo_epi32(a, b); }
  static Int min_int(Int a, Int b) { return _mm256_min_epi32(a, b); }
  static Int max_int(Int a, Int b) { return _mm256_max_epi32(a, b); }
  static Int to_int(Float x) { return _mm256_cvttps_epi32(x); }

  static void load_pairs(const float* p, Float& x, Float& y) { part(load(p), load(p + 8), x, y); }
  static void load_pairs_tail(const float* p, int count, Float& x, Float& y) {
    const int second = count > 4 ? count - 4 : 0;
    part(load_tail(p, count > 4 ? 8 : 2 * count), second ? load_tail(p + 8, 2 * second) : set(0.0f), x, y);
  }

 private:
  static Int first_lanes(int count) {
    return _mm256_cmpgt_epi32(set_int(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  /* (x0 y0 x1 y1 | x2 y2 x3 y3) and (x4 ... | ... y7) to x0..x7 and y0..y7: shuffle in the halves, then order them. */
  static void part(Float low, Float high, Float& x, Float& y) {
    const __m256d xs = _mm256_castps_pd(_mm256_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0)));
    const __m256d ys = _mm256_castps_pd(_mm256_shuffle_ps(low, high, _MM_SHUFFLE(3, 1, 3, 1)));
    x = _mm256_castpd_ps(_mm256_permute4x64_pd(xs, _MM_SHUFFLE(3, 1, 2, 0)));
    y = _mm256_castpd_ps(_mm256_permute4x64_pd(ys, _MM_SHUFFLE(3, 1, 2, 0)));
  }
};

}  // namespace

#endif
