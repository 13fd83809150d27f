/* float16 and bfloat16 to float32 and back, rounded to nearest even. In plain integer arithmetic that compilers
 * vectorise. */
#ifndef OVAVSS_MSDA_HALVES_H
#define OVAVSS_MSDA_HALVES_H

#include <cstdint>
#include <cstring>

namespace ovavss_msda {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline float half_to_float(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu, sign = (half & 0x8000u) << 16;
  // Exponents of float start 112 lower; the product also makes subnormal numbers normal.
  const uint32_t finite = bits_of(float_of(magnitude << 13) * 0x1p112f);
  return float_of(sign | finite | (magnitude >= 0x7c00u ? 0x7f800000u : 0u));
}

inline uint16_t float_to_half(float x) {
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  // Added to 0.5, the last bit of the sum counts 2^-24, which is half's smallest step.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t out = magnitude < 0x38800000u ? subnormal : magnitude < 0x47800000u ? normal : special;
  return static_cast<uint16_t>(sign | out);
}

inline float bfloat16_to_float(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }

inline uint16_t float_to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<uint16_t>(nan ? (bits >> 16 | 0x40u) : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace ovavss_msda

#endif
