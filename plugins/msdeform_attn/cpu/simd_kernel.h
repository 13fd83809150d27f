/* The CPU kernel over a vector type V (avx2.cpp, avx512.cpp). The arithmetic is that of msda_point.h: first the points
 * of several heads side by side in one register, then, point by point, the channels.
 *
 * Only for translation units that are compiled for one instruction set: everything here is in an unnamed namespace, and
 * no inline function of the standard library is used, so that no such code reaches the rest of the program.
 */
#ifndef OVAVSS_MSDA_CPU_SIMD_KERNEL_H
#define OVAVSS_MSDA_CPU_SIMD_KERNEL_H

#include "cpu/job.h"

namespace {

using namespace ovavss_msda;

/* What the first step leaves for the second: 4 corners of each point (see Footprint), and which points lie inside. */
struct Corners {
  alignas(64) float weight[4][kChunk + kPadding];
  alignas(64) int32_t offset[4][kChunk + kPadding]; /* in elements, from the batch's first token */
  uint8_t inside[(kChunk + kPadding) / 8 + 8];      /* one bit a point */
};

/* Bits [first, first + count) of `inside`, count <= 32. */
inline uint64_t inside_bits(const uint8_t* inside, int first, int count) {
  uint64_t word;
  __builtin_memcpy(&word, inside + first / 8, 8);
  return word >> (first % 8) & ((UINT64_C(1) << count) - 1);
}

/* e^x of the logits less their head's largest, and the reciprocal sum of each head. */
template <class V>
void softmax(const float* logits, int heads, int points, float* exponentials, float* reciprocal) {
  const int count = heads * points;
  for (int head = 0; head < heads; ++head) {
    const float* of_head = logits + head * points;
    float largest = of_head[0];
    for (int i = 1; i < points; ++i) largest = of_head[i] > largest ? of_head[i] : largest;
    for (int i = 0; i < points; ++i) exponentials[head * points + i] = of_head[i] - largest;
  }
  for (int i = 0; i < count; i += V::width) V::store(exponentials + i, V::exp(V::load(exponentials + i)));
  for (int head = 0; head < heads; ++head) {
    float sum = 0;
    for (int i = 0; i < points; ++i) sum += exponentials[head * points + i];
    reciprocal[head] = 1.0f / sum;
  }
}

/* e^x for x <= 0: 2^n e^r with |r| <= ln(2) / 2 and the series of e^r to r^7, whose remainder is below 6e-9. */
template <class V>
typename V::Float exp_series(typename V::Float x) {
  using Float = typename V::Float;
  const Float n = V::round(V::mul(x, V::set(1.44269504f)));
  Float r = V::fma(n, V::set(-0.693145752f), x);
  r = V::fma(n, V::set(-1.42860677e-6f), r);
  Float sum = V::set(1.0f / 5040);
  const float coefficients[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (float c : coefficients) sum = V::fma(sum, r, V::set(c));
  return V::scale(sum, n);
}

/* Where the position was rounded up to the next pixel (see msda_point.h). */
template <class V>
inline void settle(typename V::Float& floor, typename V::Float& fraction) {
  const typename V::Float step = V::keep(V::less(fraction, V::set(0.0f)), V::set(1.0f));
  floor = V::sub(floor, step), fraction = V::add(fraction, step);
}

/* The footprints of `count` points: x, y as coordinates of msda_point.h, `weights` readable up to a whole vector. */
template <class V, bool kFused>
void find_corners(const Job& job, int count, const float* pairs, const float* references, const float* weights,
                  bool may_overrun, Corners& out) {
  using Float = typename V::Float;
  using Int = typename V::Int;
  const PointTable& t = job.table;
  const Int stride = V::set_int(static_cast<int32_t>(job.sizes.heads * job.sizes.channels));
  const Float one = V::set(1.0f), half = V::set(0.5f);
  const Float minus_half = V::set(-0.5f), minus_one = V::set(-1.0f);
  typename V::References of_query{};
  if (kFused) of_query = V::load_references(references, 2 * static_cast<int>(job.sizes.reference_levels));
  for (int i = 0; i < count; i += V::width) {
    const bool whole = may_overrun || i + V::width <= count;
    Float x, y, weight;
    if (whole) {
      V::load_pairs(pairs + 2 * i, x, y);
      weight = V::load(weights + i);
    } else {
      V::load_pairs_tail(pairs + 2 * i, count - i, x, y);
      weight = kFused ? V::load(weights + i) : V::load_tail(weights + i, count - i);
    }
    const Float width = V::load(t.width + i), height = V::load(t.height + i);
    Float fx, fy, rx, ry;  // floors and fractions
    if (kFused) {
      const Int which = V::load_int(t.reference + i);
      const Float cx = V::pick(of_query, which), cy = V::pick(of_query, V::add_int(which, V::set_int(1)));
      fx = V::floor(V::fma(cx, width, V::sub(x, half))), fy = V::floor(V::fma(cy, height, V::sub(y, half)));
      rx = V::add(V::fma(cx, width, V::sub(minus_half, fx)), x);
      ry = V::add(V::fma(cy, height, V::sub(minus_half, fy)), y);
    } else {
      fx = V::floor(V::fma(x, width, minus_half)), fy = V::floor(V::fma(y, height, minus_half));
      rx = V::fma(x, width, V::sub(minus_half, fx)), ry = V::fma(y, height, V::sub(minus_half, fy));
    }
    settle<V>(fx, rx), settle<V>(fy, ry);
    const typename V::Mask inside = V::both(V::both(V::less_equal(minus_one, fx), V::less(fx, width)),
                                            V::both(V::less_equal(minus_one, fy), V::less(fy, height)));
    V::store_bits(out.inside, i, inside);
    // Lanes outside become 0 before the conversion, which NaN and large numbers would not survive.
    const Int left = V::to_int(V::keep(inside, fx)), top = V::to_int(V::keep(inside, fy));
    const Int right = V::add_int(left, V::set_int(1)), bottom = V::add_int(top, V::set_int(1));
    const Int last_column = V::load_int(t.last_column + i), last_row = V::load_int(t.last_row + i);
    const Float x1 = V::keep(V::less_equal_int(right, last_column), rx);
    const Float x0 = V::keep(V::less_equal_int(V::set_int(0), left), V::sub(one, rx));
    const Float y1 = V::keep(V::less_equal_int(bottom, last_row), V::mul(ry, weight));
    const Float y0 = V::keep(V::less_equal_int(V::set_int(0), top), V::mul(V::sub(one, ry), weight));
    const Int row_stride = V::load_int(t.row_stride + i), start = V::load_int(t.start + i), none = V::set_int(0);
    const Int row0 = V::add_int(V::mul_int(V::max_int(top, none), row_stride), start);
    const Int row1 = V::add_int(V::mul_int(V::min_int(bottom, last_row), row_stride), start);
    const Int column0 = V::mul_int(V::max_int(left, none), stride);
    const Int column1 = V::mul_int(V::min_int(right, last_column), stride);
    V::store(out.weight[0] + i, V::mul(y0, x0)), V::store_int(out.offset[0] + i, V::add_int(row0, column0));
    V::store(out.weight[1] + i, V::mul(y0, x1)), V::store_int(out.offset[1] + i, V::add_int(row0, column1));
    V::store(out.weight[2] + i, V::mul(y1, x0)), V::store_int(out.offset[2] + i, V::add_int(row1, column0));
    V::store(out.weight[3] + i, V::mul(y1, x1)), V::store_int(out.offset[3] + i, V::add_int(row1, column1));
  }
}

/* kVectors vectors of channels, summed over the points; kSets independent sums hide the latency of the additions. */
template <class V, int kVectors, int kSets>
struct Sums {
  typename V::Float sum[kSets][kVectors];

  void clear() {
    for (int k = 0; k < kSets; ++k)
      for (int v = 0; v < kVectors; ++v) sum[k][v] = V::set(0.0f);
  }
  __attribute__((always_inline)) void add(const float* base, const Corners& corners, int point) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const typename V::Float weight = V::set(corners.weight[k][point]);
      const float* from = base + corners.offset[k][point];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[k % kSets][v] = V::fma(weight, V::load(from + v * V::width), sum[k % kSets][v]);
    }
  }
  __attribute__((always_inline)) void fetch(const float* base, const Corners& corners, int point) const {
    constexpr int line = 16; /* floats */
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k)
      for (int i = 0; i < kVectors * V::width; i += line)
        __builtin_prefetch(base + corners.offset[k][point] + i);
  }
  typename V::Float total(int v) const {
    typename V::Float out = sum[0][v];
    for (int k = 1; k < kSets; ++k) out = V::add(out, sum[k][v]);
    return out;
  }
};

/* Which points, and those of the next head, whose values are fetched into the first cache meanwhile: a head's tokens
 * lie so far apart that they crowd a few of its sets, and most reads would wait for the second cache. */
struct Span {
  int first, points;
  int next;         /* first of the next head; 0 without one */
  int64_t distance; /* from this head's values to the next's */
};

template <class V, int kVectors, int kSets>
void sum_points(const float* base, const Corners& corners, const Span& span, float factor, float* out) {
  Sums<V, kVectors, kSets> sums;
  sums.clear();
  for (int done = 0; done < span.points; done += 32) {
    const int count = span.points - done < 32 ? span.points - done : 32, first = span.first + done;
    uint64_t bits = inside_bits(corners.inside, first, count);
    if (bits == (UINT64_C(1) << count) - 1) {
      for (int p = first; p < first + count; ++p) {
        sums.add(base, corners, p);
        if (span.next) sums.fetch(base + span.distance, corners, p - span.first + span.next);
      }
    } else {
      for (; bits; bits &= bits - 1) sums.add(base, corners, first + __builtin_ctzll(bits));
    }
  }
  for (int v = 0; v < kVectors; ++v) V::store(out + v * V::width, V::mul(sums.total(v), V::set(factor)));
}

/* The channels of one head, in steps of 32, then 16, then 8. */
template <class V>
void sum_channels(const float* base, const Corners& corners, const Span& span, int channels, float factor, float* out) {
  int c = 0;
  for (; c + 32 <= channels; c += 32)
    sum_points<V, 32 / V::width, V::sets>(base + c, corners, span, factor, out + c);
  if (c + 16 <= channels) {
    sum_points<V, 16 / V::width, 4>(base + c, corners, span, factor, out + c);
    c += 16;
  }
  if (c < channels) sum_points<typename V::Eight, 1, 4>(base + c, corners, span, factor, out + c);
}

template <class V, bool kFused>
void run_rows(const Job& job, int64_t begin, int64_t end) {
  const ovavss_msda_sizes& s = job.sizes;
  const int points = static_cast<int>(s.levels * s.points), channels = static_cast<int>(s.channels);
  const int64_t row_points = s.heads * points;
  Corners corners;
  alignas(64) float scratch[kChunk + kPadding];
  float reciprocal[kChunk];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t batch = row / s.queries, query = row % s.queries;
    const float* value = job.value + batch * s.tokens * s.heads * channels;
    const float* reference = nullptr;
    if (kFused)
      reference = job.references + ((s.reference_batch == 1 ? 0 : batch) * s.queries + query) * s.reference_levels * 2;
    for (int64_t head = 0; head < s.heads; head += job.heads_of_chunk) {
      const int heads = static_cast<int>(s.heads - head < job.heads_of_chunk ? s.heads - head : job.heads_of_chunk);
      const int64_t first = row * row_points + head * points;
      // Past a chunk lie the next points, except at the very end of the tensors.
      const bool may_overrun = row + 1 < end && row_points >= V::width;
      const float* weights = kFused ? scratch : job.weights + first;
      if (kFused) softmax<V>(job.logits + first, heads, points, scratch, reciprocal);
      find_corners<V, kFused>(job, heads * points, (kFused ? job.offsets : job.locations) + 2 * first, reference,
                              weights, may_overrun, corners);
      for (int h = 0; h < heads; ++h) {
        float* out = job.output + (row * s.heads + head + h) * channels;
        const Span span = {h * points, points, h + 1 < heads ? (h + 1) * points : 0, channels};
        sum_channels<V>(value + (head + h) * channels, corners, span, channels, kFused ? reciprocal[h] : 1.0f, out);
      }
    }
  }
}

template <class V>
void run_form(const Job& job, int64_t begin, int64_t end) {
  if (job.logits)
    run_rows<V, true>(job, begin, end);
  else
    run_rows<V, false>(job, begin, end);
}

}  // namespace

#endif
