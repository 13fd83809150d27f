/* float, half and bfloat16: loads and stores of whole words, arithmetic always in float. */
#ifndef OVAVSS_MSDA_TYPES_CUH
#define OVAVSS_MSDA_TYPES_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "msda_point.h"

namespace ovavss_msda {

/* Channels of one thread: 16 bytes. */
template <class T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

MSDA_FN float to_float(float x) { return x; }
MSDA_FN float to_float(__half x) { return __half2float(x); }
MSDA_FN float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

MSDA_FN void from_float(float x, float& out) { out = x; }
MSDA_FN void from_float(float x, __half& out) { out = __float2half_rn(x); }
MSDA_FN void from_float(float x, __nv_bfloat16& out) { out = __float2bfloat16_rn(x); }

template <int kBytes>
struct Word;
template <>
struct Word<16> {
  using Type = uint4;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<4> {
  using Type = uint32_t;
};
template <>
struct Word<2> {
  using Type = uint16_t;
};

/* The largest word that kBytes are a multiple of. */
template <int kBytes>
constexpr int kWord = kBytes % 16 == 0 ? 16 : kBytes % 8 == 0 ? 8 : kBytes % 4 == 0 ? 4 : 2;

/* kCount neighbours as floats, in the widest loads that their alignment (to their own size) allows. */
template <int kCount, class T>
MSDA_FN void load_floats(const T* from, float* out) {
  constexpr int bytes = kWord<kCount * static_cast<int>(sizeof(T))>, step = bytes / static_cast<int>(sizeof(T));
  union {
    typename Word<bytes>::Type word;
    T element[step];
  } loaded;
#pragma unroll
  for (int i = 0; i < kCount; i += step) {
    loaded.word = *reinterpret_cast<const typename Word<bytes>::Type*>(from + i);
#pragma unroll
    for (int j = 0; j < step; ++j) out[i + j] = to_float(loaded.element[j]);
  }
}

template <class T>
MSDA_FN void store_vector(const float* from, T* out) {
  union {
    uint4 word;
    T element[kVector<T>];
  } stored;
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) from_float(from[i], stored.element[i]);
  *reinterpret_cast<uint4*>(out) = stored.word;
}

}  // namespace ovavss_msda

#endif
