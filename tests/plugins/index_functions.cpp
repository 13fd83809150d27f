/* The index functions of msda_point.h under C names. */
#include "msda_point.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED int64_t value_index(int64_t b, int64_t s, int64_t m, int64_t d, int64_t tokens, int64_t heads,
                             int64_t channels) {
  return ovavss_msda::value_index(b, s, m, d, tokens, heads, channels);
}
EXPORTED int64_t point_index(int64_t b, int64_t q, int64_t m, int64_t l, int64_t p, int64_t queries, int64_t heads,
                             int64_t levels, int64_t points) {
  return ovavss_msda::point_index(b, q, m, l, p, queries, heads, levels, points);
}
EXPORTED int64_t reference_index(int64_t b, int64_t q, int64_t l, int64_t reference_batch, int64_t queries,
                                 int64_t reference_levels) {
  return ovavss_msda::reference_index(b, q, l, reference_batch, queries, reference_levels);
}
