/* One call of the CPU kernel, prepared once and then run on ranges of rows by whichever threads the caller has. */
#ifndef OVAVSS_MSDA_CPU_JOB_H
#define OVAVSS_MSDA_CPU_JOB_H

#include "ovavss_msdeform_attn.h"

namespace ovavss_msda {

constexpr int kMaxLevels = 8;
/* Points whose coordinates are computed in one go: whole heads of one query, at least one head (128 points). */
constexpr int kChunk = 256;
constexpr int kPadding = 16; /* vectors run past the last point */

struct Level {
  int32_t height, width;
  int64_t start; /* token of its first pixel */
};

/* The level of each point of a chunk, spread out, so that points of any level stand side by side in one register.
 * Strides and starts count elements of value. */
struct PointTable {
  float height[kChunk + kPadding], width[kChunk + kPadding];
  int32_t last_row[kChunk + kPadding], last_column[kChunk + kPadding];
  int32_t row_stride[kChunk + kPadding], start[kChunk + kPadding];
  int32_t reference[kChunk + kPadding]; /* of its x among one query's references */
};

struct Job {
  ovavss_msda_sizes sizes;
  const float *value, *locations, *weights;   /* plain form */
  const float *references, *offsets, *logits; /* fused form: logits is not NULL */
  float* output;
  Level levels[kMaxLevels];
  int heads_of_chunk;
  bool wide; /* a batch's values pass 2^31 elements: such offsets only the portable kernel has */
  PointTable table;
  void (*run)(const Job&, int64_t begin, int64_t end); /* rows [begin, end) of batch * queries */
};

/* Checks, and everything but the pointers; NULL or a sentence. */
const char* prepare(Job& job, const ovavss_msda_sizes& sizes, const void* level_shapes);

/* Rows that are worth one hand-over to a thread. */
int64_t rows_of_block(const Job& job);

void run_portable(const Job& job, int64_t begin, int64_t end);
void run_avx2(const Job& job, int64_t begin, int64_t end);
void run_avx512(const Job& job, int64_t begin, int64_t end);

}  // namespace ovavss_msda

#endif
