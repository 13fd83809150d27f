/* The arithmetic of one sampling point, written once for the CUDA kernel, the CPU kernels and the host walk of the CUDA
 * source. Everything is static: each translation unit may be compiled for another instruction set.
 */
#ifndef OVAVSS_MSDA_POINT_H
#define OVAVSS_MSDA_POINT_H

#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define MSDA_FN static __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define MSDA_FN static inline
#else
#define MSDA_FN static inline __attribute__((unused, always_inline))
#endif

namespace ovavss_msda {

/* A pixel coordinate: its floor and the fraction above it, 0 <= fraction <= 1. */
struct Coordinate {
  float floor, fraction;
};

/* The fraction is computed from the location again, not from the rounded position: on wide maps a position's own
 * rounding (1/32768 pixel at 256-512) would be the largest error of the whole op. It is negative where the position was
 * rounded up to the next pixel. */
MSDA_FN Coordinate settle(float floor, float fraction) {
  const bool rounded_up = fraction < 0.0f;
  return {rounded_up ? floor - 1.0f : floor, rounded_up ? fraction + 1.0f : fraction};
}

/* location * size - 0.5 */
MSDA_FN Coordinate coordinate_of_location(float location, float size) {
  const float floor = floorf(fmaf(location, size, -0.5f));
  return settle(floor, fmaf(location, size, -0.5f - floor));
}

/* reference * size + offset - 0.5, the same for the fused form: offsets are in pixels, so nothing is divided. */
MSDA_FN Coordinate coordinate_of_offset(float reference, float offset, float size) {
  const float floor = floorf(fmaf(reference, size, offset - 0.5f));
  return settle(floor, fmaf(reference, size, -0.5f - floor) + offset);
}

/* False for NaN, infinity and everything a pixel or more outside: what is left converts to an integer safely. */
MSDA_FN bool touches(float floor, float size) { return floor >= -1.0f && floor < size; }

/* Sides above this are refused: half a pixel would no longer be exact in a float. */
constexpr int64_t kMaxSide = INT64_C(1) << 22;

/* The 2 x 2 pixels of one sample: corner 0 top left, 1 top right, 2 bottom left, 3 bottom right. A corner outside the
 * map has weight 0 and the token of the nearest corner inside, so that it may be read. */
struct Footprint {
  bool inside;      /* some corner is inside; else tokens and weights are 0 */
  int32_t token[4]; /* counted from the level's first */
  float weight[4];
};

MSDA_FN Footprint footprint(const Coordinate& x, const Coordinate& y, int32_t height, int32_t width, float weight) {
  Footprint out = {};
  out.inside = height > 0 && width > 0 && touches(x.floor, (float)width) && touches(y.floor, (float)height);
  if (!out.inside) return out;
  const int32_t left = (int32_t)x.floor, top = (int32_t)y.floor;
  const bool has_left = left >= 0, has_right = left + 1 < width, has_top = top >= 0, has_bottom = top + 1 < height;
  const float x1 = has_right ? x.fraction : 0.0f, x0 = has_left ? 1.0f - x.fraction : 0.0f;
  const float y1 = has_bottom ? y.fraction * weight : 0.0f, y0 = has_top ? (1.0f - y.fraction) * weight : 0.0f;
  const int32_t column0 = has_left ? left : 0, column1 = has_right ? left + 1 : width - 1;
  const int32_t row0 = (has_top ? top : 0) * width, row1 = (has_bottom ? top + 1 : height - 1) * width;
  out.token[0] = row0 + column0, out.weight[0] = y0 * x0;
  out.token[1] = row0 + column1, out.weight[1] = y0 * x1;
  out.token[2] = row1 + column0, out.weight[2] = y1 * x0;
  out.token[3] = row1 + column1, out.weight[3] = y1 * x1;
  return out;
}

/* Flat indices, always 64 bits: batch * tokens * heads * channels passes 2^31 at sizes that a GPU can hold. */
MSDA_FN int64_t value_index(int64_t batch, int64_t token, int64_t head, int64_t channel, int64_t tokens, int64_t heads,
                            int64_t channels) {
  return ((batch * tokens + token) * heads + head) * channels + channel;
}

/* Of [B, Q, M, L, P]; twice this for the (x, y) pairs. */
MSDA_FN int64_t point_index(int64_t batch, int64_t query, int64_t head, int64_t level, int64_t point, int64_t queries,
                            int64_t heads, int64_t levels, int64_t points) {
  return (((batch * queries + query) * heads + head) * levels + level) * points + point;
}

/* Of references [B or 1, Q, L or 1, 2]: a dimension of 1 serves every batch or level. */
MSDA_FN int64_t reference_index(int64_t batch, int64_t query, int64_t level, int64_t reference_batch, int64_t queries,
                                int64_t reference_levels) {
  const int64_t of_batch = reference_batch == 1 ? 0 : batch, of_level = reference_levels == 1 ? 0 : level;
  return ((of_batch * queries + query) * reference_levels + of_level) * 2;
}

}  // namespace ovavss_msda

#endif
