/* Stands for CUDA's header in the host walk: the type and the two conversions that the kernel uses. */
#pragma once
#include "halves.h"

struct __half {
  uint16_t bits;
};
inline float __half2float(__half x) { return ovavss_msda::half_to_float(x.bits); }
inline __half __float2half_rn(float x) { return {ovavss_msda::float_to_half(x)}; }
