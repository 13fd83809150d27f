/* Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, equation 3): the C interface that every
 * adapter calls. No framework's header is needed.
 *
 * Tensors are contiguous. B batch, S tokens (the sum of height * width over the levels), M heads, D channels of a head,
 * L levels, Q queries, P points:
 *   value           [B, S, M, D]           value_type
 *   level_shapes    [L, 2]                 int64 or int32 (height, width)
 *   locations       [B, Q, M, L, P, 2]     float32, (x, y) in [0, 1] of the level           plain form
 *   weights         [B, Q, M, L, P]        weight_type                                      plain form
 *   references      [B or 1, Q, L or 1, 2] float32, (x, y) in [0, 1] of the level           fused form
 *   offsets         [B, Q, M, L, P, 2]     weight_type, in pixels of the level              fused form
 *   logits          [B, Q, M, L, P]        weight_type, softmax over L * P                  fused form
 *   output          [B, Q, M * D]          value_type
 * Sampling is bilinear, zeros outside, align_corners = false; a location that is NaN or infinite samples zero.
 * Coordinates, softmax and sums are float32 whatever the types.
 */
#ifndef OVAVSS_MSDEFORM_ATTN_H
#define OVAVSS_MSDEFORM_ATTN_H

#include <stdint.h>

#if defined(_WIN32)
#define OVAVSS_API __declspec(dllexport)
#else
#define OVAVSS_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { OVAVSS_FLOAT32 = 0, OVAVSS_FLOAT16 = 1, OVAVSS_BFLOAT16 = 2 } ovavss_dtype;

typedef struct {
  int64_t batch, tokens, heads, channels, levels, queries, points;
  int64_t reference_batch;  /* fused form: batch or 1 */
  int64_t reference_levels; /* fused form: levels or 1 */
  ovavss_dtype value_type;
  ovavss_dtype weight_type; /* float32 or value_type */
  int32_t shapes_are_int32; /* 0: level_shapes are int64 */
} ovavss_msda_sizes;

/* NULL where the sizes can be computed (channels a multiple of 8, 1-8 levels, 1-16 points, nothing negative), else one
 * sentence that says what is wrong. */
OVAVSS_API const char* ovavss_msda_check(const ovavss_msda_sizes* sizes);

/* On the CPU: value_type and weight_type float32. threads: 0 takes as many as the machine has. level_shapes are checked
 * against tokens. Return NULL, or a sentence. */
OVAVSS_API const char* ovavss_msda_plain_cpu(const ovavss_msda_sizes* sizes, const float* value,
                                             const void* level_shapes, const float* locations, const float* weights,
                                             float* output, int32_t threads);
OVAVSS_API const char* ovavss_msda_fused_cpu(const ovavss_msda_sizes* sizes, const float* value,
                                             const void* level_shapes, const float* references, const float* offsets,
                                             const float* logits, float* output, int32_t threads);

/* On the GPU: every pointer is device memory (level_shapes too), work is queued on the stream (a cudaStream_t). Return
 * 0, or the cudaError_t of the launch. */
OVAVSS_API int32_t ovavss_msda_plain_cuda(const ovavss_msda_sizes* sizes, const void* value, const void* level_shapes,
                                          const float* locations, const void* weights, void* output, void* stream);
OVAVSS_API int32_t ovavss_msda_fused_cuda(const ovavss_msda_sizes* sizes, const void* value, const void* level_shapes,
                                          const float* references, const void* offsets, const void* logits,
                                          void* output, void* stream);

#ifdef __cplusplus
}
#endif
#endif
