/* Multi-scale deformable attention as an OpenVINO operation for its CPU device, in the plain and the fused form. */
#ifndef OVAVSS_MSDA_OPENVINO_OPERATOR_H
#define OVAVSS_MSDA_OPENVINO_OPERATOR_H

#include <openvino/op/op.hpp>

namespace ovavss_msda {

/* Inputs and output as in ovavss_msdeform_attn.h. Computes in float32: OpenVINO converts around it where the network
 * around it runs in bfloat16. */
class Attention : public ov::op::Op {
 public:
  Attention() = default;
  explicit Attention(const ov::OutputVector& inputs) : Op(inputs) {}

  void validate_and_infer_types() override;
  bool visit_attributes(ov::AttributeVisitor&) override { return true; }
  bool has_evaluate() const override;
  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;

 private:
  bool fused() const { return get_input_size() == 5; }
};

class MSDeformAttn : public Attention {
 public:
  OPENVINO_OP("OvavssMSDeformAttn", "ovavss");
  MSDeformAttn() = default;
  explicit MSDeformAttn(const ov::OutputVector& inputs) : Attention(inputs) { constructor_validate_and_infer_types(); }
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override;
};

class MSDeformAttnFused : public Attention {
 public:
  OPENVINO_OP("OvavssMSDeformAttnFused", "ovavss");
  MSDeformAttnFused() = default;
  explicit MSDeformAttnFused(const ov::OutputVector& inputs) : Attention(inputs) {
    constructor_validate_and_infer_types();
  }
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override;
};

}  // namespace ovavss_msda

#endif
