/* The CUDA kernel: one thread computes one vector of channels (16 bytes of value) of one query and head.
 *
 * Neither shared memory nor warp intrinsics: the threads of a head repeat its coordinates, which costs less than the
 * loads that they hide, and the source can be walked thread by thread on a machine with no GPU.
 * Template parameters: T value, W weights, logits and offsets, kFused the form, kChannels 32 or 0 for any multiple of
 * 8, kPoints 4 to 8 or 0 for any.
 */
#ifndef OVAVSS_MSDA_KERNEL_CUH
#define OVAVSS_MSDA_KERNEL_CUH

#include "cuda/types.cuh"
#include "msda_point.h"

namespace ovavss_msda {

constexpr int kThreads = 256;

struct Arguments {
  int64_t batch, tokens, queries, reference_batch;
  int32_t heads, channels, levels, points, reference_levels, shapes_are_int32;
  const void* value;
  const void* level_shapes;
  const float* places; /* locations or references */
  const void* offsets; /* fused form */
  const void* weights; /* weights or logits */
  void* output;
};

/* A GPU has no 64-bit division (about a hundred instructions), and most sizes do not need it. */
MSDA_FN int64_t divide(int64_t n, int64_t by) {
  if (((n | by) >> 32) == 0) return static_cast<uint32_t>(n) / static_cast<uint32_t>(by);
  return n / by;
}

/* Height and width of a level; false where they are nonsense or do not fit into the tokens that are left. */
MSDA_FN bool read_level(const Arguments& a, int level, int64_t tokens_left, int32_t& height, int32_t& width) {
  int64_t h, w;
  if (a.shapes_are_int32) {
    h = static_cast<const int32_t*>(a.level_shapes)[2 * level];
    w = static_cast<const int32_t*>(a.level_shapes)[2 * level + 1];
  } else {
    h = static_cast<const int64_t*>(a.level_shapes)[2 * level];
    w = static_cast<const int64_t*>(a.level_shapes)[2 * level + 1];
  }
  height = static_cast<int32_t>(h), width = static_cast<int32_t>(w);
  return h >= 0 && w >= 0 && h <= kMaxSide && w <= kMaxSide && h * w <= tokens_left;
}

/* The largest of one head's logits: what softmax subtracts. */
template <class W, int kPoints>
MSDA_FN float largest_logit(const W* logits, int count) {
  constexpr int step = kPoints ? kPoints : 1;
  float largest = -INFINITY, group[step];
  for (int i = 0; i < count; i += step) {
    load_floats<step>(logits + i, group);
#pragma unroll
    for (int p = 0; p < step; ++p) largest = fmaxf(largest, group[p]);
  }
  return largest;
}

/* sum += weight * sample, for one vector of channels; `level` is that vector in the level's first token. */
template <class T>
MSDA_FN void add_sample(const Coordinate& x, const Coordinate& y, int32_t height, int32_t width, float weight,
                        const T* level, int32_t row, float* sum) {
  const Footprint print = footprint(x, y, height, width, weight);
  if (!print.inside) return;
  float corner[4][kVector<T>];
#pragma unroll
  for (int k = 0; k < 4; ++k) load_floats<kVector<T>>(level + static_cast<int64_t>(print.token[k]) * row, corner[k]);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
#pragma unroll
    for (int c = 0; c < kVector<T>; ++c) sum[c] = fmaf(print.weight[k], corner[k][c], sum[c]);
  }
}

template <class T, class W, bool kFused, int kChannels, int kPoints>
__global__ void __launch_bounds__(kThreads, kChannels ? 3 : 4) msda_kernel(const Arguments a) {
  const int channels = kChannels ? kChannels : a.channels, points = kPoints ? kPoints : a.points;
  const int vectors = channels / kVector<T>;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t unit = divide(thread, vectors);  // of batch * queries * heads
  const int64_t of_batch = divide(unit, a.heads), batch = divide(of_batch, a.queries);
  if (batch >= a.batch) return;
  const int64_t query = of_batch - batch * a.queries;
  const int head = static_cast<int>(unit - of_batch * a.heads);
  const int channel = static_cast<int>(thread - unit * vectors) * kVector<T>;

  const int64_t first = point_index(batch, query, head, 0, 0, a.queries, a.heads, a.levels, points);
  const W* weights = static_cast<const W*>(a.weights) + first;
  const W* offsets = static_cast<const W*>(a.offsets) + (kFused ? 2 * first : 0);
  const float* places = a.places + (kFused ? 0 : 2 * first);
  const T* value =
      static_cast<const T*>(a.value) + value_index(batch, 0, head, channel, a.tokens, a.heads, channels);
  const int32_t row = a.heads * channels;

  float sum[kVector<T>] = {};
  float largest = 0.0f, total = 0.0f;
  if (kFused) largest = largest_logit<W, kPoints>(weights, a.levels * points);
  int64_t tokens_left = a.tokens;
  for (int l = 0; l < a.levels; ++l) {
    int32_t height, width;
    if (!read_level(a, l, tokens_left, height, width)) {
      tokens_left = -1;
      break;
    }
    const T* level = value + (a.tokens - tokens_left) * row;
    tokens_left -= static_cast<int64_t>(height) * width;
    float reference[2] = {};
    if (kFused)
      load_floats<2>(
          places + reference_index(batch, query, l, a.reference_batch, a.queries, a.reference_levels), reference);
    constexpr int step = kPoints ? kPoints : 1;  // points whose numbers are loaded together
    for (int p = 0; p < points; p += step) {
      float place[2 * step], weight[step];
      const int at = l * points + p;
      if (kFused)
        load_floats<2 * step>(offsets + 2 * at, place);
      else
        load_floats<2 * step>(places + 2 * at, place);
      load_floats<step>(weights + at, weight);
#pragma unroll
      for (int i = 0; i < step; ++i) {
        Coordinate x, y;
        if (kFused) {
          weight[i] = expf(weight[i] - largest);
          total += weight[i];
          x = coordinate_of_offset(reference[0], place[2 * i], static_cast<float>(width));
          y = coordinate_of_offset(reference[1], place[2 * i + 1], static_cast<float>(height));
        } else {
          x = coordinate_of_location(place[2 * i], static_cast<float>(width));
          y = coordinate_of_location(place[2 * i + 1], static_cast<float>(height));
        }
        add_sample<T>(x, y, height, width, weight[i], level, row, sum);
      }
    }
  }
  // Level shapes that do not add up cannot be reported from here: NaN is at least not a plausible result.
  const float factor = tokens_left == 0 ? (kFused ? 1.0f / total : 1.0f) : NAN;
#pragma unroll
  for (int c = 0; c < kVector<T>; ++c) sum[c] *= factor;
  store_vector(sum, static_cast<T*>(a.output) + value_index(batch, query, head, channel, a.queries, a.heads, channels));
}

}  // namespace ovavss_msda

#endif
