/* The operators' computation: inputs are checked against each other, then handed to the core. */
#include "onnxruntime/kernel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <string>

#include "cpu/job.h"
#include "halves.h"

namespace ovavss_msda {

namespace {

struct Input {
  const void* data;
  int64_t dims[6];
  size_t rank;

  int64_t count() const {
    int64_t out = 1;
    for (size_t i = 0; i < rank; ++i) out *= dims[i];
    return out;
  }
};

OrtStatus* read_input(const OrtApi& api, OrtKernelContext* context, size_t index, size_t rank, Input& out) {
  const OrtValue* value = nullptr;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  if (OrtStatus* bad = api.KernelContext_GetInput(context, index, &value)) return bad;
  if (OrtStatus* bad = api.GetTensorTypeAndShape(value, &info)) return bad;
  OrtStatus* status = api.GetDimensionsCount(info, &out.rank);
  if (!status && out.rank != rank) {
    const std::string text = "ovavss: input " + std::to_string(index) + " has " + std::to_string(out.rank) +
                             " dimensions and must have " + std::to_string(rank);
    status = api.CreateStatus(ORT_INVALID_ARGUMENT, text.c_str());
  }
  if (!status) status = api.GetDimensions(info, out.dims, rank);
  api.ReleaseTensorTypeAndShapeInfo(info);
  if (status) return status;
  void* data = nullptr;  // the C API has no const accessor in version 17
  status = api.GetTensorMutableData(const_cast<OrtValue*>(value), &data);
  out.data = data;
  return status;
}

bool same(const Input& input, std::initializer_list<int64_t> dims) {
  return std::equal(dims.begin(), dims.end(), input.dims);
}

ovavss_dtype core_type(ONNXTensorElementDataType type) {
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) return OVAVSS_FLOAT16;
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 ? OVAVSS_BFLOAT16 : OVAVSS_FLOAT32;
}

/* Sizes from value [B,S,M,D], level_shapes [L,2], places (locations or references), offsets (fused), weights. */
const char* read_sizes(const Operator& op, const Input* in, ovavss_msda_sizes& s) {
  const Input &value = in[0], &shapes = in[1], &places = in[2], &weights = in[op.fused ? 4 : 3];
  s = {};
  s.batch = value.dims[0], s.tokens = value.dims[1], s.heads = value.dims[2], s.channels = value.dims[3];
  s.levels = shapes.dims[0], s.queries = weights.dims[1], s.points = weights.dims[4];
  s.reference_batch = op.fused ? places.dims[0] : 1, s.reference_levels = op.fused ? places.dims[2] : 1;
  s.value_type = core_type(op.value_type), s.weight_type = core_type(op.weight_type);
  if (shapes.dims[1] != 2) return "level_shapes must be [levels, 2]";
  if (!same(weights, {s.batch, s.queries, s.heads, s.levels, s.points}))
    return op.fused ? "logits do not fit value and level_shapes" : "weights do not fit value and level_shapes";
  const Input& pairs = op.fused ? in[3] : places;
  if (!same(pairs, {s.batch, s.queries, s.heads, s.levels, s.points, 2}))
    return op.fused ? "offsets do not fit logits" : "locations do not fit weights";
  if (op.fused && (places.dims[1] != s.queries || places.dims[3] != 2)) return "references do not fit logits";
  return ovavss_msda_check(&s);
}

/* `count` steps on ONNX Runtime's own threads: threads of ours would compete with its spinning ones. */
template <class Step>
OrtStatus* parallel(const OrtApi& api, OrtKernelContext* context, int64_t count, const Step& step) {
  if (count == 0) return nullptr;
  const auto call = [](void* data, size_t index) { (*static_cast<const Step*>(data))(static_cast<int64_t>(index)); };
  // As many batches as steps: handed out one by one, so that a thread which is held up does not hold up the others.
  const auto steps = static_cast<size_t>(count);
  return api.KernelContext_ParallelFor(context, call, steps, steps, const_cast<Step*>(&step));
}

constexpr int64_t kPiece = 1 << 15; /* elements converted by one step */

/* `input` as floats: itself, or a copy in `owner`. */
OrtStatus* as_floats(const OrtApi& api, OrtKernelContext* context, const Input& input, ovavss_dtype type,
                     std::unique_ptr<float[]>& owner, const float*& out) {
  out = static_cast<const float*>(input.data);
  if (type == OVAVSS_FLOAT32) return nullptr;
  const int64_t count = input.count();
  owner.reset(new float[count]);
  out = owner.get();
  const auto* from = static_cast<const uint16_t*>(input.data);
  return parallel(api, context, (count + kPiece - 1) / kPiece, [&, count, from](int64_t piece) {
    const int64_t begin = piece * kPiece, end = std::min(count, begin + kPiece);
    if (type == OVAVSS_FLOAT16)
      for (int64_t i = begin; i < end; ++i) owner[i] = half_to_float(from[i]);
    else
      for (int64_t i = begin; i < end; ++i) owner[i] = bfloat16_to_float(from[i]);
  });
}

OrtStatus* compute_cpu(const Operator& op, OrtKernelContext* context, const ovavss_msda_sizes& sizes, const Input* in,
                       void* output) {
  const OrtApi& api = *op.api;
  ovavss_msda_sizes in_floats = sizes;
  in_floats.value_type = in_floats.weight_type = OVAVSS_FLOAT32;
  Job job{};
  if (const char* wrong = prepare(job, in_floats, in[1].data)) return api.CreateStatus(ORT_INVALID_ARGUMENT, wrong);
  std::unique_ptr<float[]> owners[4];
  const float *weights = nullptr, *offsets = nullptr;
  if (OrtStatus* bad = as_floats(api, context, in[0], sizes.value_type, owners[0], job.value)) return bad;
  if (OrtStatus* bad = as_floats(api, context, in[op.fused ? 4 : 3], sizes.weight_type, owners[1], weights)) return bad;
  if (op.fused)
    if (OrtStatus* bad = as_floats(api, context, in[3], sizes.weight_type, owners[2], offsets)) return bad;
  if (op.fused)
    job.references = static_cast<const float*>(in[2].data), job.offsets = offsets, job.logits = weights;
  else
    job.locations = static_cast<const float*>(in[2].data), job.weights = weights;
  const int64_t count = sizes.batch * sizes.queries * sizes.heads * sizes.channels;
  job.output = static_cast<float*>(output);
  if (sizes.value_type != OVAVSS_FLOAT32) {
    owners[3].reset(new float[count]);
    job.output = owners[3].get();
  }
  std::atomic<bool> done{true};
  const auto step = [&](int64_t task) {
    if (!run_task(job, task)) done = false;
  };
  if (OrtStatus* bad = parallel(api, context, job.tasks, step)) return bad;
  if (!done) return api.CreateStatus(ORT_RUNTIME_EXCEPTION, kNoMemory);
  if (sizes.value_type == OVAVSS_FLOAT32) return nullptr;
  auto* halves = static_cast<uint16_t*>(output);
  return parallel(api, context, (count + kPiece - 1) / kPiece, [&](int64_t piece) {
    const int64_t begin = piece * kPiece, end = std::min(count, begin + kPiece);
    if (sizes.value_type == OVAVSS_FLOAT16)
      for (int64_t i = begin; i < end; ++i) halves[i] = float_to_half(job.output[i]);
    else
      for (int64_t i = begin; i < end; ++i) halves[i] = float_to_bfloat16(job.output[i]);
  });
}

OrtStatus* compute_cuda(const Operator& op, OrtKernelContext* context, const ovavss_msda_sizes& sizes, const Input* in,
                        void* output) {
#if defined(OVAVSS_MSDA_CUDA)
  void* stream = nullptr;
  if (OrtStatus* bad = op.api->KernelContext_GetGPUComputeStream(context, &stream)) return bad;
  const auto* places = static_cast<const float*>(in[2].data);
  const int32_t error =
      op.fused ? ovavss_msda_fused_cuda(&sizes, in[0].data, in[1].data, places, in[3].data, in[4].data, output, stream)
               : ovavss_msda_plain_cuda(&sizes, in[0].data, in[1].data, places, in[3].data, output, stream);
  if (error == 0) return nullptr;
  return op.api->CreateStatus(ORT_EP_FAIL, ("ovavss: CUDA error " + std::to_string(error)).c_str());
#else
  (void)context, (void)sizes, (void)in, (void)output;
  return op.api->CreateStatus(ORT_NOT_IMPLEMENTED, "ovavss: built without CUDA");
#endif
}

}  // namespace

OrtStatus* compute(const Operator& op, OrtKernelContext* context) try {
  const OrtApi& api = *op.api;
  constexpr size_t plain_ranks[] = {4, 2, 6, 5}, fused_ranks[] = {4, 2, 4, 6, 5};
  Input in[5] = {};
  for (size_t i = 0; i < (op.fused ? 5u : 4u); ++i)
    if (OrtStatus* bad = read_input(api, context, i, op.fused ? fused_ranks[i] : plain_ranks[i], in[i])) return bad;
  ovavss_msda_sizes sizes;
  if (const char* wrong = read_sizes(op, in, sizes))
    return api.CreateStatus(ORT_INVALID_ARGUMENT, (std::string("ovavss: ") + wrong).c_str());
  const int64_t dims[] = {sizes.batch, sizes.queries, sizes.heads * sizes.channels};
  OrtValue* value = nullptr;
  void* output = nullptr;
  if (OrtStatus* bad = api.KernelContext_GetOutput(context, 0, dims, 3, &value)) return bad;
  if (OrtStatus* bad = api.GetTensorMutableData(value, &output)) return bad;
  return op.cuda ? compute_cuda(op, context, sizes, in, output) : compute_cpu(op, context, sizes, in, output);
} catch (const std::exception& error) {
  return op.api->CreateStatus(ORT_RUNTIME_EXCEPTION, error.what());
}

}  // namespace ovavss_msda
