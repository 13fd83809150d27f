/* The C interface on the GPU: which instance of the kernel, and its launch.
 *
 * MSDA_LAUNCH is defined by the tests' host walk, which compiles this file as C++. */
#include "ovavss_msdeform_attn.h"

#if !defined(MSDA_LAUNCH)
#include <cuda_runtime.h>
#endif

#include "cuda/msda_kernel.cuh"

namespace ovavss_msda {

namespace {

#if !defined(MSDA_LAUNCH)
cudaError_t launch(void (*kernel)(Arguments), uint32_t blocks, const Arguments& arguments, void* stream) {
  void* values[] = {const_cast<Arguments*>(&arguments)};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(blocks), dim3(kThreads), values, 0,
                          static_cast<cudaStream_t>(stream));
}
#define MSDA_LAUNCH(kernel, blocks, arguments, stream) launch(kernel, blocks, arguments, stream)
#endif

template <class T, class W, bool kFused>
cudaError_t launch_for(const Arguments& a, uint32_t blocks, void* stream) {
  if (a.channels == 32) {
    switch (a.points) {
      case 4: return MSDA_LAUNCH((msda_kernel<T, W, kFused, 32, 4>), blocks, a, stream);
      case 5: return MSDA_LAUNCH((msda_kernel<T, W, kFused, 32, 5>), blocks, a, stream);
      case 6: return MSDA_LAUNCH((msda_kernel<T, W, kFused, 32, 6>), blocks, a, stream);
      case 7: return MSDA_LAUNCH((msda_kernel<T, W, kFused, 32, 7>), blocks, a, stream);
      case 8: return MSDA_LAUNCH((msda_kernel<T, W, kFused, 32, 8>), blocks, a, stream);
      default: break;
    }
  }
  return MSDA_LAUNCH((msda_kernel<T, W, kFused, 0, 0>), blocks, a, stream);
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <bool kFused>
cudaError_t run(const ovavss_msda_sizes& s, Arguments& a, void* stream) {
  if (ovavss_msda_check(&s)) return cudaErrorInvalidValue;
  if (!aligned(a.value) || !aligned(a.places) || !aligned(a.offsets) || !aligned(a.weights) || !aligned(a.output))
    return cudaErrorMisalignedAddress;
  a.batch = s.batch, a.tokens = s.tokens, a.queries = s.queries, a.reference_batch = s.reference_batch;
  a.heads = static_cast<int32_t>(s.heads), a.channels = static_cast<int32_t>(s.channels);
  a.levels = static_cast<int32_t>(s.levels), a.points = static_cast<int32_t>(s.points);
  a.reference_levels = static_cast<int32_t>(s.reference_levels), a.shapes_are_int32 = s.shapes_are_int32;
  const int64_t vectors = s.channels / (s.value_type == OVAVSS_FLOAT32 ? 4 : 8);
  const int64_t blocks = (s.batch * s.queries * s.heads * vectors + kThreads - 1) / kThreads;
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  const uint32_t count = static_cast<uint32_t>(blocks);
  const bool float_weights = s.weight_type == OVAVSS_FLOAT32;
  if (s.value_type == OVAVSS_FLOAT32) return launch_for<float, float, kFused>(a, count, stream);
  if (s.value_type == OVAVSS_FLOAT16)
    return float_weights ? launch_for<__half, float, kFused>(a, count, stream)
                         : launch_for<__half, __half, kFused>(a, count, stream);
  return float_weights ? launch_for<__nv_bfloat16, float, kFused>(a, count, stream)
                       : launch_for<__nv_bfloat16, __nv_bfloat16, kFused>(a, count, stream);
}

}  // namespace

}  // namespace ovavss_msda

extern "C" int32_t ovavss_msda_plain_cuda(const ovavss_msda_sizes* sizes, const void* value, const void* level_shapes,
                                          const float* locations, const void* weights, void* output, void* stream) {
  ovavss_msda::Arguments arguments{};
  arguments.value = value, arguments.level_shapes = level_shapes, arguments.places = locations;
  arguments.weights = weights, arguments.output = output;
  return ovavss_msda::run<false>(*sizes, arguments, stream);
}

extern "C" int32_t ovavss_msda_fused_cuda(const ovavss_msda_sizes* sizes, const void* value, const void* level_shapes,
                                          const float* references, const void* offsets, const void* logits,
                                          void* output, void* stream) {
  ovavss_msda::Arguments arguments{};
  arguments.value = value, arguments.level_shapes = level_shapes, arguments.places = references;
  arguments.offsets = offsets, arguments.weights = logits, arguments.output = output;
  return ovavss_msda::run<true>(*sizes, arguments, stream);
}
