/* The CPU kernel in plain C++: any machine, any size. */
#include "cpu/job.h"
#include "msda_point.h"

namespace ovavss_msda {

namespace {

/* Softmax up to its divisor, which is returned: the output is divided once instead of every weight. */
float exponentials(const float* logits, int64_t count, float* out) {
  float largest = logits[0], sum = 0;
  for (int64_t i = 1; i < count; ++i) largest = logits[i] > largest ? logits[i] : largest;
  for (int64_t i = 0; i < count; ++i) sum += out[i] = expf(logits[i] - largest);
  return sum;
}

void run_head(const Job& job, int64_t batch, int64_t query, int64_t head) {
  const ovavss_msda_sizes& s = job.sizes;
  const int64_t points = s.levels * s.points;
  const int64_t first = point_index(batch, query, head, 0, 0, s.queries, s.heads, s.levels, s.points);
  float scratch[kChunk], divisor = 1;
  const float* weights = job.weights + first;
  if (job.logits) {
    divisor = exponentials(job.logits + first, points, scratch);
    weights = scratch;
  }
  float* out = job.output + value_index(batch, query, head, 0, s.queries, s.heads, s.channels);
  for (int64_t c = 0; c < s.channels; ++c) out[c] = 0;
  for (int64_t i = 0; i < points; ++i) {
    const Level& level = job.levels[i / s.points];
    const float width = static_cast<float>(level.width), height = static_cast<float>(level.height);
    Coordinate x, y;
    if (job.logits) {
      const float* reference = job.references + reference_index(batch, query, i / s.points, s.reference_batch,
                                                                s.queries, s.reference_levels);
      x = coordinate_of_offset(reference[0], job.offsets[2 * (first + i)], width);
      y = coordinate_of_offset(reference[1], job.offsets[2 * (first + i) + 1], height);
    } else {
      x = coordinate_of_location(job.locations[2 * (first + i)], width);
      y = coordinate_of_location(job.locations[2 * (first + i) + 1], height);
    }
    const Footprint print = footprint(x, y, level.height, level.width, weights[i]);
    if (!print.inside) continue;
    const float* corner[4];
    for (int k = 0; k < 4; ++k)
      corner[k] = job.value + value_index(batch, level.start + print.token[k], head, 0, s.tokens, s.heads, s.channels);
    for (int64_t c = 0; c < s.channels; ++c)
      out[c] += print.weight[0] * corner[0][c] + print.weight[1] * corner[1][c] + print.weight[2] * corner[2][c] +
                print.weight[3] * corner[3][c];
  }
  if (job.logits)
    for (int64_t c = 0; c < s.channels; ++c) out[c] /= divisor;
}

}  // namespace

void run_portable(const Job& job, int64_t task, float*) {
  const int64_t rows = job.sizes.batch * job.sizes.queries, begin = task * job.rows_of_task;
  for (int64_t row = begin; row < rows && row < begin + job.rows_of_task; ++row)
    for (int64_t head = 0; head < job.sizes.heads; ++head)
      run_head(job, row / job.sizes.queries, row % job.sizes.queries, head);
}

}  // namespace ovavss_msda
