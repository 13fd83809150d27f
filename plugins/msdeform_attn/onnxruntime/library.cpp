/* RegisterCustomOps, which ONNX Runtime calls, and the description of its operators.
 *
 * domain ovavss: OvavssMSDeformAttn(value T, level_shapes int64, locations float, weights float or T) -> T and
 * OvavssMSDeformAttnFused(value T, level_shapes int64, references float, offsets float or T, logits like offsets) -> T,
 * T float32, float16 or bfloat16. One OrtCustomOp for each combination and device; ONNX Runtime picks by type.
 */
#include "onnxruntime/kernel.h"

#include <atomic>
#include <string>

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

namespace ovavss_msda {

namespace {

const Operator& self(const OrtCustomOp* op) { return *static_cast<const Operator*>(op); }

size_t input_count(const OrtCustomOp* op) { return self(op).fused ? 5 : 4; }

ONNXTensorElementDataType input_type(const OrtCustomOp* op, size_t index) {
  if (index == 0) return self(op).value_type;
  if (index == 1) return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  return index == 2 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : self(op).weight_type;
}

/* One input's dimensions as far as they are known, and their names. */
template <size_t kRank>
struct Known {
  int64_t dims[kRank];
  const char* names[kRank];
  ONNXTensorElementDataType type;

  OrtStatus* read(const OrtApi& api, OrtShapeInferContext* context, size_t input) {
    for (size_t i = 0; i < kRank; ++i) dims[i] = -1, names[i] = "";
    OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context, like the names
    if (OrtStatus* bad = api.ShapeInferContext_GetInputTypeShape(context, input, &info)) return bad;
    size_t rank = 0;
    if (OrtStatus* bad = api.GetTensorElementType(info, &type)) return bad;
    if (OrtStatus* bad = api.GetDimensionsCount(info, &rank)) return bad;
    if (rank != kRank) return nullptr;
    if (OrtStatus* bad = api.GetDimensions(info, dims, kRank)) return bad;
    return api.GetSymbolicDimensions(info, names, kRank);
  }
};

/* [B, Q, M * D] from value [B, S, M, D] and the last input [B, Q, M, L, P]. ONNX Runtime asks the first of all
 * operators of a name, so the type is the value's, not the operator's. A dimension that is unknown gets a name of its
 * own: with none, ONNX Runtime takes the -1 for a size. */
OrtStatus* infer_shape(const OrtCustomOp* op, OrtShapeInferContext* context) {
  static std::atomic<unsigned> unknown{0};
  const OrtApi& api = *self(op).api;
  Known<4> value;
  Known<5> last;
  if (OrtStatus* bad = value.read(api, context, 0)) return bad;
  if (OrtStatus* bad = last.read(api, context, input_count(op) - 1)) return bad;
  const int64_t channels = value.dims[2] >= 0 && value.dims[3] >= 0 ? value.dims[2] * value.dims[3] : -1;
  const int64_t dims[] = {value.dims[0], last.dims[1], channels};
  std::string names[] = {value.names[0], last.names[1], ""};
  const char* given[3];
  for (int i = 0; i < 3; ++i) {
    if (dims[i] < 0 && names[i].empty()) names[i] = "ovavss_msda_unknown_" + std::to_string(unknown++);
    given[i] = names[i].c_str();
  }
  OrtTensorTypeAndShapeInfo* info = nullptr;
  if (OrtStatus* bad = api.CreateTensorTypeAndShapeInfo(&info)) return bad;
  OrtStatus* status = api.SetTensorElementType(info, value.type);
  if (!status) status = api.SetDimensions(info, dims, 3);
  if (!status) status = api.SetSymbolicDimensions(info, given, 3);
  if (!status) status = api.ShapeInferContext_SetOutputTypeShape(context, 0, info);
  api.ReleaseTensorTypeAndShapeInfo(info);
  return status;
}

void describe(Operator& op, const OrtApi* api, bool fused, bool cuda, ONNXTensorElementDataType value_type,
              ONNXTensorElementDataType weight_type) {
  static_cast<OrtCustomOp&>(op) = OrtCustomOp{};
  op.api = api, op.fused = fused, op.cuda = cuda, op.value_type = value_type, op.weight_type = weight_type;
  op.version = kApiVersion;
  op.GetName = [](const OrtCustomOp* o) { return self(o).fused ? "OvavssMSDeformAttnFused" : "OvavssMSDeformAttn"; };
  op.GetExecutionProviderType = [](const OrtCustomOp* o) -> const char* {
    return self(o).cuda ? "CUDAExecutionProvider" : "CPUExecutionProvider";
  };
  op.GetInputType = input_type;
  op.GetInputTypeCount = input_count;
  op.GetOutputType = [](const OrtCustomOp* o, size_t) { return self(o).value_type; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.CreateKernelV2 = [](const OrtCustomOp* o, const OrtApi*, const OrtKernelInfo*, void** kernel) -> OrtStatus* {
    *kernel = const_cast<Operator*>(&self(o));  // nothing is kept between calls
    return nullptr;
  };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return compute(*static_cast<const Operator*>(kernel), context);
  };
  op.KernelDestroy = [](void*) {};
  op.InferOutputShapeFn = infer_shape;
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return INT32_MAX; };
}

/* The domain with its operators: sessions keep pointers into it, so it lives as long as the process. */
OrtStatus* make_domain(const OrtApi* api, OrtCustomOpDomain** out) {
  constexpr auto f32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, f16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  constexpr auto bf16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  constexpr ONNXTensorElementDataType types[][2] = {{f32, f32}, {f16, f32}, {f16, f16}, {bf16, f32}, {bf16, bf16}};
#if defined(OVAVSS_MSDA_CUDA)
  constexpr int devices = 2;
#else
  constexpr int devices = 1;
#endif
  static Operator operators[devices * 2 * 5];
  OrtCustomOpDomain* domain = nullptr;
  if (OrtStatus* bad = api->CreateCustomOpDomain("ovavss", &domain)) return bad;
  Operator* op = operators;
  for (int cuda = 0; cuda < devices; ++cuda)
    for (int fused = 0; fused < 2; ++fused)
      for (const auto& type : types) {
        describe(*op, api, fused, cuda, type[0], type[1]);
        if (OrtStatus* bad = api->CustomOpDomain_Add(domain, op++)) return bad;
      }
  *out = domain;
  return nullptr;
}

}  // namespace

}  // namespace ovavss_msda

extern "C" EXPORTED OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ovavss_msda::kApiVersion);
  if (!api) return base->GetApi(1)->CreateStatus(ORT_FAIL, "ovavss: ONNX Runtime 1.17 or newer is needed");
  struct Made {
    OrtCustomOpDomain* domain = nullptr;
    OrtStatus* status = nullptr;
  };
  static const Made made = [&] {
    Made out;
    out.status = ovavss_msda::make_domain(api, &out.domain);
    return out;
  }();
  if (!made.domain) return api->CreateStatus(ORT_FAIL, api->GetErrorMessage(made.status));
  return api->AddCustomOpDomain(options, made.domain);
}

/* 1 where the library holds CUDA kernels: without them a GPU session is better off with the local functions. */
extern "C" EXPORTED int ovavss_msda_has_cuda(void) {
#if defined(OVAVSS_MSDA_CUDA)
  return 1;
#else
  return 0;
#endif
}
