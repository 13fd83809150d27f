/* Lets cuda/msda_cuda.cu compile as C++ and run on the CPU: a launch walks blocks and threads in turn.
 *
 * Good for kernels without shared memory, warp intrinsics and synchronisation. Include before the source (-include);
 * the headers beside this one stand for CUDA's. */
#ifndef OVAVSS_CUDA_WALK_H
#define OVAVSS_CUDA_WALK_H

#include <cstdint>
#include <cstdio>

struct uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

#define __global__
#define __launch_bounds__(...)

using cudaError_t = int;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMisalignedAddress = 716 };

struct WalkIndex {
  uint32_t x;
};
static WalkIndex blockIdx, threadIdx;

/* The instance that ran last, as written at its launch with T, W and kFused told: tests count them. */
extern "C" {
__attribute__((visibility("default"))) inline char walked[256];
}

template <class Arguments>
cudaError_t walk(void (*kernel)(Arguments), const char* instance, const char* caller, uint32_t blocks, uint32_t threads,
                 const Arguments& arguments) {
  const char* types = __builtin_strstr(caller, "[with");
  std::snprintf(walked, sizeof walked, "%s %s", instance, types ? types : "");
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel(arguments);
  return cudaSuccess;
}

#define MSDA_LAUNCH(kernel, blocks, arguments, stream) \
  ((void)(stream), walk<Arguments>(kernel, #kernel, __PRETTY_FUNCTION__, blocks, kThreads, arguments))

#endif
