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

typedef float Four __attribute__((vector_size(16), aligned(4)));

/* Four at a time, then one by one: groups have 4, 12 or 16 points in the models that use this. */
inline float largest_of(const float* x, int count) {
  float out = x[0];
  int i = 1;
  if (count >= 4) {
    Four best = *reinterpret_cast<const Four*>(x);
    for (i = 4; i + 4 <= count; i += 4) {
      const Four next = *reinterpret_cast<const Four*>(x + i);
      best = next > best ? next : best;
    }
    for (int k = 0; k < 4; ++k) out = best[k] > out ? best[k] : out;
  }
  for (; i < count; ++i) out = x[i] > out ? x[i] : out;
  return out;
}

inline float sum_of(const float* x, int count) {
  Four sums = {0, 0, 0, 0};
  int i = 0;
  for (; i + 4 <= count; i += 4) sums += *reinterpret_cast<const Four*>(x + i);
  float out = (sums[0] + sums[2]) + (sums[1] + sums[3]);
  for (; i < count; ++i) out += x[i];
  return out;
}

inline void subtract(const float* from, float x, int count, float* out) {
  int i = 0;
  for (; i + 4 <= count; i += 4)
    *reinterpret_cast<Four*>(out + i) = *reinterpret_cast<const Four*>(from + i) - Four{x, x, x, x};
  for (; i < count; ++i) out[i] = from[i] - x;
}

/* e^x of the logits less their group's largest, and the reciprocal sum of each group of `points` logits. */
template <class V>
void softmax(const float* logits, int groups, int points, float* exponentials, float* reciprocal) {
  const int count = groups * points;
  for (int first = 0; first < count; first += points)
    subtract(logits + first, largest_of(logits + first, points), points, exponentials + first);
  for (int i = 0; i < count; i += V::width) V::store(exponentials + i, V::exp(V::load(exponentials + i)));
  for (int group = 0; group < groups; ++group) reciprocal[group] = 1.0f / sum_of(exponentials + group * points, points);
}

/* The reference point of each point of a chunk, as coordinates in [0, 1]. */
struct Anchors {
  alignas(64) float x[kChunk + kPadding], y[kChunk + kPadding];
};

/* One query's references, spread over the points of one head from `first` on. */
inline void spread_references(const Job& job, const float* references, int first, Anchors& out) {
  const int levels = static_cast<int>(job.sizes.levels), points = static_cast<int>(job.sizes.points);
  const int step = job.sizes.reference_levels == 1 ? 0 : 2;
  for (int level = 0, i = first; level < levels; ++level, references += step)
    for (int end = i + points; i < end; ++i) out.x[i] = references[0], out.y[i] = references[1];
}

inline const float* references_of(const Job& job, int64_t batch, int64_t query) {
  const ovavss_msda_sizes& s = job.sizes;
  return job.references + ((s.reference_batch == 1 ? 0 : batch) * s.queries + query) * s.reference_levels * 2;
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
void find_corners(const Job& job, int count, const float* pairs, const Anchors& anchors, const float* weights,
                  bool may_overrun, Corners& out) {
  using Float = typename V::Float;
  using Int = typename V::Int;
  const PointTable& t = job.table;
  const int64_t apart = job.by_head ? job.sizes.channels : job.sizes.heads * job.sizes.channels;
  const Int stride = V::set_int(static_cast<int32_t>(apart));
  const Float one = V::set(1.0f), half = V::set(0.5f);
  const Float minus_half = V::set(-0.5f), minus_one = V::set(-1.0f);
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
      const Float cx = V::load(anchors.x + i), cy = V::load(anchors.y + i);
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

/* Which points, and those of the next group, whose values are fetched into the first cache meanwhile. */
struct Span {
  int first, points;
  int next;         /* first of the next group; 0 without one */
  int64_t distance; /* from this group's values to the next's */
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

/* The channels of one head, in steps of 32, then 16, then 8, with 8 floats a register even where AVX-512 has 16: Zen 4
 * computes 16 in two halves, and these sums took a fifth longer with them. */
template <class V>
void sum_channels(const float* base, const Corners& corners, const Span& span, int channels, float factor, float* out) {
  using Eight = typename V::Eight;
  int c = 0;
  for (; c + 32 <= channels; c += 32) sum_points<Eight, 4, 2>(base + c, corners, span, factor, out + c);
  if (c + 16 <= channels) {
    sum_points<Eight, 2, 4>(base + c, corners, span, factor, out + c);
    c += 16;
  }
  if (c < channels) sum_points<Eight, 1, 4>(base + c, corners, span, factor, out + c);
}

/* A block of queries, all heads of each. */
template <class V, bool kFused>
void run_rows(const Job& job, int64_t task) {
  const ovavss_msda_sizes& s = job.sizes;
  const int points = static_cast<int>(s.levels * s.points), channels = static_cast<int>(s.channels);
  const int64_t row_points = s.heads * points, rows = s.batch * s.queries, begin = task * job.rows_of_task;
  const int64_t end = begin + job.rows_of_task < rows ? begin + job.rows_of_task : rows;
  Corners corners;
  Anchors anchors;
  alignas(64) float scratch[kChunk + kPadding];
  float reciprocal[kChunk];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t batch = row / s.queries, query = row % s.queries;
    const float* value = job.value + batch * s.tokens * s.heads * channels;
    if (kFused)
      for (int h = 0; h < job.groups_of_chunk; ++h)
        spread_references(job, references_of(job, batch, query), h * points, anchors);
    for (int64_t head = 0; head < s.heads; head += job.groups_of_chunk) {
      const int heads = static_cast<int>(s.heads - head < job.groups_of_chunk ? s.heads - head : job.groups_of_chunk);
      const int64_t first = row * row_points + head * points;
      // Past a chunk lie the next points, except at the very end of the tensors.
      const bool may_overrun = row + 1 < rows && row_points >= V::width;
      const float* weights = kFused ? scratch : job.weights + first;
      if (kFused) softmax<V>(job.logits + first, heads, points, scratch, reciprocal);
      find_corners<V, kFused>(job, heads * points, (kFused ? job.offsets : job.locations) + 2 * first, anchors, weights,
                              may_overrun, corners);
      for (int h = 0; h < heads; ++h) {
        float* out = job.output + (row * s.heads + head + h) * channels;
        const Span span = {h * points, points, h + 1 < heads ? (h + 1) * points : 0, channels};
        sum_channels<V>(value + (head + h) * channels, corners, span, channels, kFused ? reciprocal[h] : 1.0f, out);
      }
    }
  }
}

/* `count` floats; reads and writes up to 7 more where the source has them and the place is scratch. */
inline void copy(const float* from, int count, bool may_overrun, float* to) {
  typedef float Eight __attribute__((vector_size(32), aligned(4)));
  int i = 0;
  for (; may_overrun ? i < count : i + 8 <= count; i += 8)
    *reinterpret_cast<Eight*>(to + i) = *reinterpret_cast<const Eight*>(from + i);
  for (; i < count; ++i) to[i] = from[i];
}

/* Asks for the cache lines of `count` floats that are read later; a place past the end of a tensor does no harm. */
inline void fetch(const float* from, int64_t count) {
  for (int64_t i = 0; i < count + 15; i += 16) __builtin_prefetch(from + i);
}

/* One head's values of one batch, tokens side by side. */
inline void pack(const Job& job, int64_t batch, int64_t head, float* to) {
  const ovavss_msda_sizes& s = job.sizes;
  constexpr int ahead = 16; /* tokens: each lies in lines of its own, too far apart to be foreseen */
  const int64_t apart = s.heads * s.channels;
  const float* from = job.value + (batch * s.tokens * s.heads + head) * s.channels;
  for (int64_t token = 0; token < s.tokens; ++token, from += apart, to += s.channels) {
    fetch(from + ahead * apart, s.channels);
    copy(from, static_cast<int>(s.channels), false, to);
  }
}

/* One head of one batch, or a part of its queries, from packed values. */
template <class V, bool kFused>
void run_head(const Job& job, int64_t task, float* packed) {
  const ovavss_msda_sizes& s = job.sizes;
  const int points = static_cast<int>(s.levels * s.points), channels = static_cast<int>(s.channels);
  const int64_t part = task % job.parts, head = task / job.parts % s.heads, batch = task / job.parts / s.heads;
  const int64_t begin = s.queries * part / job.parts, end = s.queries * (part + 1) / job.parts;
  Corners corners;
  Anchors anchors;
  alignas(64) float pairs[2 * (kChunk + kPadding)], weights[kChunk + kPadding];
  float reciprocal[kChunk];
  const int64_t next_chunk = job.groups_of_chunk * s.heads * points; /* from a point to its like in the next chunk */
  pack(job, batch, head, packed);
  for (int64_t query = begin; query < end; query += job.groups_of_chunk) {
    const int queries = static_cast<int>(end - query < job.groups_of_chunk ? end - query : job.groups_of_chunk);
    for (int q = 0; q < queries; ++q) {
      const int64_t row = batch * s.queries + query + q, first = (row * s.heads + head) * points;
      const bool more = row + 1 < s.batch * s.queries && s.heads * points >= 8;
      const float* pair = (kFused ? job.offsets : job.locations) + 2 * first;
      const float* weight = (kFused ? job.logits : job.weights) + first;
      fetch(pair + 2 * next_chunk, 2 * points), fetch(weight + next_chunk, points);
      copy(pair, 2 * points, more, pairs + 2 * q * points);
      copy(weight, points, more, weights + q * points);
      if (kFused) spread_references(job, references_of(job, batch, query + q), q * points, anchors);
    }
    if (kFused) softmax<V>(weights, queries, points, weights, reciprocal);
    find_corners<V, kFused>(job, queries * points, pairs, anchors, weights, true, corners);
    for (int q = 0; q < queries; ++q) {
      float* out = job.output + ((batch * s.queries + query + q) * s.heads + head) * channels;
      const Span span = {q * points, points, q + 1 < queries ? (q + 1) * points : 0, 0};
      sum_channels<V>(packed, corners, span, channels, kFused ? reciprocal[q] : 1.0f, out);
    }
  }
}

template <class V>
void run_form(const Job& job, int64_t task, float* scratch) {
  if (job.by_head)
    job.logits ? run_head<V, true>(job, task, scratch) : run_head<V, false>(job, task, scratch);
  else
    job.logits ? run_rows<V, true>(job, task) : run_rows<V, false>(job, task);
}

}  // namespace

#endif
