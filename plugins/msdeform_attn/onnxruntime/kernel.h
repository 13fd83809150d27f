/* One operator of the library, and its computation. */
#ifndef OVAVSS_MSDA_ORT_KERNEL_H
#define OVAVSS_MSDA_ORT_KERNEL_H

#include <onnxruntime_c_api.h>

namespace ovavss_msda {

/* ONNX Runtime 1.17: the first with everything that is used here. Built against newer headers it still loads there. */
constexpr uint32_t kApiVersion = 17;

struct Operator : OrtCustomOp {
  const OrtApi* api;
  bool fused, cuda;
  ONNXTensorElementDataType value_type, weight_type;
};

/* NULL or what is wrong, as ONNX Runtime wants it. */
OrtStatus* compute(const Operator& op, OrtKernelContext* context);

}  // namespace ovavss_msda

#endif
