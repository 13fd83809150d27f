/* Runs the CPU kernels on buffers of exactly the right size, for the sanitizers to watch. */
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "ovavss_msdeform_attn.h"

namespace {

std::mt19937 generator(0);

float number(float low, float high) { return std::uniform_real_distribution<float>(low, high)(generator); }

/* Of its own allocation: one float past the end is an error that the sanitizer sees. */
std::unique_ptr<float[]> numbers(int64_t count, float low, float high, bool hard) {
  static const float all[] = {std::numeric_limits<float>::quiet_NaN(), INFINITY, -INFINITY, 3e38f, -3e38f,
                              2147483648.0f, 0.0f, 1.0f, -1.0f, 1e-40f};
  std::unique_ptr<float[]> out(new float[count]);
  for (int64_t i = 0; i < count; ++i) out[i] = hard && generator() % 3 == 0 ? all[generator() % 10] : number(low, high);
  return out;
}

int64_t between(int64_t low, int64_t high) { return low + static_cast<int64_t>(generator() % (high - low + 1)); }

void one_case(int threads) {
  ovavss_msda_sizes s{};
  s.batch = between(0, 2), s.heads = between(1, 9), s.channels = 8 * between(1, 9), s.levels = between(1, 8);
  s.queries = between(0, 1) ? between(0, 5) : between(20, 60), s.points = between(1, 16);
  s.reference_batch = between(0, 1) ? s.batch : 1, s.reference_levels = between(0, 1) ? s.levels : 1;
  std::vector<int64_t> shapes;
  for (int64_t l = 0; l < s.levels; ++l) {
    shapes.push_back(between(0, 5)), shapes.push_back(between(0, 6));
    s.tokens += shapes[2 * l] * shapes[2 * l + 1];
  }
  const bool hard = between(0, 1);
  const int64_t points = s.batch * s.queries * s.heads * s.levels * s.points;
  const auto value = numbers(s.batch * s.tokens * s.heads * s.channels, -1, 1, false);
  const auto locations = numbers(2 * points, -0.5f, 1.5f, hard), weights = numbers(points, 0, 1, false);
  const auto references = numbers(s.reference_batch * s.queries * s.reference_levels * 2, -0.1f, 1.1f, hard);
  const auto offsets = numbers(2 * points, -9, 9, hard), logits = numbers(points, -9, 9, hard);
  const auto output = numbers(s.batch * s.queries * s.heads * s.channels, 0, 0, false);
  const char* wrong =
      ovavss_msda_plain_cpu(&s, value.get(), shapes.data(), locations.get(), weights.get(), output.get(), threads);
  if (!wrong)
    wrong = ovavss_msda_fused_cpu(&s, value.get(), shapes.data(), references.get(), offsets.get(), logits.get(),
                                  output.get(), threads);
  if (wrong) {
    std::puts(wrong);
    std::exit(1);
  }
}

}  // namespace

int main() {
  int cases = 0;
  for (const char* isa : {"portable", "avx2", "avx512"}) {
    setenv("OVAVSS_MSDA_CPU", isa, 1);
    for (int i = 0; i < 150; ++i, ++cases) one_case(i % 3);
  }
  std::printf("%d cases\n", cases);
}
