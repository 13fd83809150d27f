/* Which sizes the kernels take. */
#include "ovavss_msdeform_attn.h"

namespace {

/* Tensors above 2^62 elements could overflow the 64-bit index arithmetic. */
bool product_fits(const int64_t* factors, int count) {
  int64_t product = 1;
  for (int i = 0; i < count; ++i) {
    if (factors[i] == 0) return true;
    if (product > (INT64_C(1) << 62) / factors[i]) return false;
    product *= factors[i];
  }
  return true;
}

}  // namespace

extern "C" const char* ovavss_msda_check(const ovavss_msda_sizes* s) {
  if (s->batch < 0 || s->tokens < 0 || s->queries < 0) return "batch, tokens and queries must not be negative";
  if (s->heads < 1) return "there must be at least one head";
  if (s->channels < 8 || s->channels % 8) return "the channels of a head must be a multiple of 8";
  if (s->levels < 1 || s->levels > 8) return "there must be 1 to 8 levels";
  if (s->points < 1 || s->points > 16) return "there must be 1 to 16 points";
  if (s->reference_batch != s->batch && s->reference_batch != 1) return "reference_batch must be batch or 1";
  if (s->reference_levels != s->levels && s->reference_levels != 1) return "reference_levels must be levels or 1";
  if (s->value_type != OVAVSS_FLOAT32 && s->value_type != OVAVSS_FLOAT16 && s->value_type != OVAVSS_BFLOAT16)
    return "value_type must be float32, float16 or bfloat16";
  if (s->weight_type != OVAVSS_FLOAT32 && s->weight_type != s->value_type)
    return "weight_type must be float32 or value_type";
  if (s->tokens > INT32_MAX) return "there must be fewer than 2^31 tokens";
  const int64_t row = s->heads > INT32_MAX || s->channels > INT32_MAX ? INT64_MAX : s->heads * s->channels;
  if (row > INT32_MAX) return "heads * channels must be below 2^31";
  const int64_t value[] = {s->batch, s->tokens, s->heads, s->channels, 4};
  const int64_t points[] = {s->batch, s->queries, s->heads, s->levels, s->points, 2, 4};
  const int64_t output[] = {s->batch, s->queries, s->heads, s->channels, 4};
  if (!product_fits(value, 5) || !product_fits(points, 7) || !product_fits(output, 5))
    return "a tensor must be smaller than 2^62 bytes";
  return nullptr;
}
