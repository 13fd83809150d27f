// The kernel as an entry point of its own, for aot_plugin.py: tensors and sizes are plain parameters, in the order in
// which TensorRT hands them over (inputs, scalars, outputs). The types, the form, channels and points are macros.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// The kernel's body is called from here, so it must be compiled as a function and not as a kernel.
#pragma push_macro("__global__")
#pragma push_macro("__launch_bounds__")
#undef __global__
#undef __launch_bounds__
#define __global__ __device__ __forceinline__
#define __launch_bounds__(...)
#include "cuda/msda_kernel.cuh"
#pragma pop_macro("__launch_bounds__")
#pragma pop_macro("__global__")

extern "C" __global__ void __launch_bounds__(ovavss_msda::kThreads)
    ovavss_msda_aot(const void* value, const void* level_shapes, const float* places,
#if MSDA_FUSED
                    const void* offsets,
#endif
                    const void* weights, int32_t batch, int32_t tokens, int32_t heads, int32_t channels, int32_t levels,
                    int32_t queries, int32_t points, int32_t reference_batch, int32_t reference_levels, void* output) {
  ovavss_msda::Arguments a{};
  a.batch = batch, a.tokens = tokens, a.heads = heads, a.channels = channels, a.levels = levels;
  a.queries = queries, a.points = points, a.reference_batch = reference_batch, a.reference_levels = reference_levels;
  a.shapes_are_int32 = MSDA_SHAPES_ARE_INT32;
  a.value = value, a.level_shapes = level_shapes, a.places = places, a.weights = weights, a.output = output;
#if MSDA_FUSED
  a.offsets = offsets;
#endif
  ovavss_msda::msda_kernel<MSDA_VALUE, MSDA_WEIGHT, (MSDA_FUSED != 0), MSDA_CHANNELS, MSDA_POINTS>(a);
}
