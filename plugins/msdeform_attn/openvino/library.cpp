/* What OpenVINO asks this library for: the operations, and how ONNX files spell them. */
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>

#include "openvino/operator.h"

using ov::frontend::onnx::ConversionExtension;

namespace {

template <class Operation>
std::shared_ptr<ov::Extension> from_onnx(const char* name) {
  return std::make_shared<ConversionExtension>(name, "ovavss", [](const ov::frontend::NodeContext& node) {
    ov::OutputVector inputs;
    for (size_t i = 0; i < node.get_input_size(); ++i) inputs.push_back(node.get_input(static_cast<int>(i)));
    return std::make_shared<Operation>(inputs)->outputs();
  });
}

}  // namespace

OPENVINO_CREATE_EXTENSIONS((std::vector<ov::Extension::Ptr>{
    std::make_shared<ov::OpExtension<ovavss_msda::MSDeformAttn>>(),
    std::make_shared<ov::OpExtension<ovavss_msda::MSDeformAttnFused>>(),
    from_onnx<ovavss_msda::MSDeformAttn>("OvavssMSDeformAttn"),
    from_onnx<ovavss_msda::MSDeformAttnFused>("OvavssMSDeformAttnFused"),
}));
