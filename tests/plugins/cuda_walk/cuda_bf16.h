/* Stands for CUDA's header in the host walk: the type and the two conversions that the kernel uses. */
#pragma once
#include "halves.h"

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) { return ovavss_msda::bfloat16_to_float(x.bits); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {ovavss_msda::float_to_bfloat16(x)}; }
