/* The C interface on the CPU: checks, the level table, the choice of instruction set, threads. */
#include "cpu/job.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "msda_point.h"

namespace ovavss_msda {

namespace {

const char* read_levels(Job& job, const void* level_shapes) {
  int64_t start = 0;
  for (int64_t l = 0; l < job.sizes.levels; ++l) {
    int64_t side[2];
    for (int i = 0; i < 2; ++i)
      side[i] = job.sizes.shapes_are_int32 ? static_cast<const int32_t*>(level_shapes)[2 * l + i]
                                           : static_cast<const int64_t*>(level_shapes)[2 * l + i];
    if (side[0] < 0 || side[1] < 0) return "a level's height or width is negative";
    if (side[0] > kMaxSide || side[1] > kMaxSide) return "a level's height or width is above 2^22";
    job.levels[l] = {static_cast<int32_t>(side[0]), static_cast<int32_t>(side[1]), start};
    start += side[0] * side[1];
  }
  return start == job.sizes.tokens ? nullptr : "the level shapes do not add up to the number of tokens";
}

void fill_table(Job& job) {
  const ovavss_msda_sizes& s = job.sizes;
  const int stride = static_cast<int>(job.by_head ? s.channels : s.heads * s.channels);
  PointTable& t = job.table;
  for (int i = 0; i < kChunk + kPadding; ++i) {
    const int64_t l = i / s.points % s.levels;
    const Level& level = job.levels[l];
    const bool empty = level.height == 0 || level.width == 0;
    t.height[i] = empty ? -1.0f : static_cast<float>(level.height);  // no floor is -1 or above and below -1
    t.width[i] = empty ? -1.0f : static_cast<float>(level.width);
    t.last_row[i] = level.height - 1;
    t.last_column[i] = level.width - 1;
    t.row_stride[i] = static_cast<int32_t>(static_cast<int64_t>(level.width) * stride);
    t.start[i] = static_cast<int32_t>(level.start * stride);
  }
}

/* See Note [Two orders of the same work]: what a packed value saves a point is about what packing costs a token. */
void choose_order(Job& job) {
  const ovavss_msda_sizes& s = job.sizes;
  const int64_t points = s.levels * s.points, heads = s.batch * s.heads;
  job.by_head = job.run != run_portable && s.heads > 1 && s.tokens > 0 && s.queries * points >= s.tokens;
  job.groups_of_chunk = static_cast<int>(std::clamp<int64_t>(kChunk / points, 1, job.by_head ? s.queries : s.heads));
  if (job.by_head) {
    // Tasks for 16 threads, but no part so small that packing is most of its work.
    job.parts = std::clamp<int64_t>(16 / heads, 1, std::max<int64_t>(1, s.queries * points / s.tokens / 4));
    job.tasks = heads * job.parts;
    job.scratch = s.tokens * s.channels;
    return;
  }
  const int64_t work = s.heads * points * s.channels;  // about a nanosecond for 64 of these
  job.rows_of_task = std::clamp<int64_t>((INT64_C(1) << 22) / work, 1, 4096);
  job.tasks = (s.batch * s.queries + job.rows_of_task - 1) / job.rows_of_task;
}

void choose_kernel(Job& job) {
  job.run = run_portable;
#if defined(OVAVSS_MSDA_X86)
  if (job.wide) return;
  const char* at_most = std::getenv("OVAVSS_MSDA_CPU");  // portable or avx2: for tests and comparisons
  if (at_most && !std::strcmp(at_most, "portable")) return;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) job.run = run_avx2;
  if (at_most && !std::strcmp(at_most, "avx2")) return;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) job.run = run_avx512;
#endif
}

}  // namespace

const char* prepare(Job& job, const ovavss_msda_sizes& sizes, const void* level_shapes) {
  job.sizes = sizes;
  if (const char* wrong = ovavss_msda_check(&sizes)) return wrong;
  if (sizes.value_type != OVAVSS_FLOAT32 || sizes.weight_type != OVAVSS_FLOAT32) return "the CPU computes in float32";
  if (sizes.batch == 0 || sizes.queries == 0) return nullptr;
  if (const char* wrong = read_levels(job, level_shapes)) return wrong;
  job.wide = sizes.tokens * sizes.heads * sizes.channels > INT32_MAX;
  choose_kernel(job);
  choose_order(job);
  if (!job.wide) fill_table(job);
  return nullptr;
}

bool run_task(const Job& job, int64_t task) {
  constexpr int64_t floats_of_line = 16;
  std::unique_ptr<float[]> memory;
  float* scratch = nullptr;
  if (job.scratch > 0) {
    memory.reset(new (std::nothrow) float[job.scratch + floats_of_line]);
    if (!memory) return false;
    scratch = memory.get() + (floats_of_line - reinterpret_cast<uintptr_t>(memory.get()) / 4 % floats_of_line);
  }
  job.run(job, task, scratch);
  return true;
}

namespace {

const char* run(const Job& job, int32_t threads) {
  if (job.tasks == 0) return nullptr;
  if (threads <= 0) threads = static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
  std::atomic<int64_t> next{0};
  std::atomic<bool> done{true};
  const auto work = [&] {
    for (int64_t i; (i = next.fetch_add(1)) < job.tasks;)
      if (!run_task(job, i)) done = false;
  };
  std::vector<std::thread> others;
  try {
    others.reserve(threads);
    for (int64_t i = 1; i < std::min<int64_t>(threads, job.tasks); ++i) others.emplace_back(work);
  } catch (const std::exception&) {
    // Fewer threads than asked for: the rest of the work is done by those that started.
  }
  work();
  for (std::thread& other : others) other.join();
  return done ? nullptr : kNoMemory;
}

}  // namespace

}  // namespace ovavss_msda

extern "C" const char* ovavss_msda_plain_cpu(const ovavss_msda_sizes* sizes, const float* value,
                                             const void* level_shapes, const float* locations, const float* weights,
                                             float* output, int32_t threads) {
  ovavss_msda::Job job{};
  if (const char* wrong = ovavss_msda::prepare(job, *sizes, level_shapes)) return wrong;
  job.value = value, job.locations = locations, job.weights = weights, job.output = output;
  return ovavss_msda::run(job, threads);
}

extern "C" const char* ovavss_msda_fused_cpu(const ovavss_msda_sizes* sizes, const float* value,
                                             const void* level_shapes, const float* references, const float* offsets,
                                             const float* logits, float* output, int32_t threads) {
  ovavss_msda::Job job{};
  if (const char* wrong = ovavss_msda::prepare(job, *sizes, level_shapes)) return wrong;
  job.value = value, job.references = references, job.offsets = offsets, job.logits = logits, job.output = output;
  return ovavss_msda::run(job, threads);
}
