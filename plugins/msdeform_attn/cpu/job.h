/* One call of the CPU kernel, prepared once and then run task by task by whichever threads the caller has.
 *
 * Note [Two orders of the same work]. A token's heads lie side by side, so the tokens of one head are M * D floats apart
 * and share a few sets of the first cache. Where a head is read often enough, a task is one head of one batch: its
 * values are packed into scratch memory, tokens side by side, and all queries (or a part of them) are summed from there,
 * which takes two thirds of the time. With few queries the packing would cost more than it saves; then a task is a
 * block of queries with all their heads. */
#ifndef OVAVSS_MSDA_CPU_JOB_H
#define OVAVSS_MSDA_CPU_JOB_H

#include "ovavss_msdeform_attn.h"

namespace ovavss_msda {

constexpr int kMaxLevels = 8;
/* Points whose coordinates are computed in one go: whole heads of one query, or one head of several queries. At least
 * the most points that one head can have (128). */
constexpr int kChunk = 256;
constexpr int kPadding = 16; /* vectors run past the last point */

struct Level {
  int32_t height, width;
  int64_t start; /* token of its first pixel */
};

/* The level of each point of a chunk, spread out, so that points of any level lie side by side in one register.
 * Strides and starts count elements of value, or of the packed values. */
struct PointTable {
  float height[kChunk + kPadding], width[kChunk + kPadding];
  int32_t last_row[kChunk + kPadding], last_column[kChunk + kPadding];
  int32_t row_stride[kChunk + kPadding], start[kChunk + kPadding];
};

struct Job {
  ovavss_msda_sizes sizes;
  const float *value, *locations, *weights;   /* plain form */
  const float *references, *offsets, *logits; /* fused form: logits is not NULL */
  float* output;
  Level levels[kMaxLevels];
  int groups_of_chunk; /* heads of one query, or queries of one head, whose points fit into a chunk */
  bool by_head;        /* see Note [Two orders of the same work] */
  int64_t parts;       /* by head: tasks that share the queries of one head */
  int64_t rows_of_task; /* otherwise: rows of batch * queries in one task */
  int64_t tasks;
  int64_t scratch; /* floats of memory that a task needs while it runs, aligned to 64 bytes */
  bool wide; /* a batch's values pass 2^31 elements: such offsets only the portable kernel has */
  PointTable table;
  void (*run)(const Job&, int64_t task, float* scratch);
};

/* Checks, and everything but the pointers; NULL or a sentence. */
const char* prepare(Job& job, const ovavss_msda_sizes& sizes, const void* level_shapes);

constexpr const char* kNoMemory = "there is no memory left for the attention's packed values";

/* Runs one task with scratch memory of its own; false where there is no memory for it. */
bool run_task(const Job& job, int64_t task);

void run_portable(const Job& job, int64_t task, float* scratch);
void run_avx2(const Job& job, int64_t task, float* scratch);
void run_avx512(const Job& job, int64_t task, float* scratch);

}  // namespace ovavss_msda

#endif
