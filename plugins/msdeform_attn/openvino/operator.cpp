/* Shapes and types of the operations, and their computation by the core. */
#include "openvino/operator.h"

#include <openvino/core/except.hpp>
#include <openvino/core/parallel.hpp>

#include <algorithm>
#include <atomic>
#include <memory>

#include "cpu/job.h"
#include "halves.h"

namespace ovavss_msda {

namespace {

/* Sizes from value [B,S,M,D], level_shapes [L,2], places (locations or references) and the last input [B,Q,M,L,P]. */
ovavss_msda_sizes read_sizes(const ov::TensorVector& in, bool fused) {
  const ov::Shape &value = in[0].get_shape(), &shapes = in[1].get_shape(), &places = in[2].get_shape(),
                  &weights = in.back().get_shape();
  ovavss_msda_sizes s{};
  s.batch = value[0], s.tokens = value[1], s.heads = value[2], s.channels = value[3];
  s.levels = shapes[0], s.queries = weights[1], s.points = weights[4];
  s.reference_batch = fused ? places[0] : 1, s.reference_levels = fused ? places[2] : 1;
  s.shapes_are_int32 = in[1].get_element_type() == ov::element::i32;
  const ov::Shape last{value[0], weights[1], value[2], shapes[0], weights[4]};
  ov::Shape pairs = last;
  pairs.push_back(2);
  OPENVINO_ASSERT(shapes[1] == 2, "ovavss: level_shapes must be [levels, 2]");
  OPENVINO_ASSERT(weights == last, "ovavss: ", fused ? "logits" : "weights", " do not fit value and level_shapes");
  OPENVINO_ASSERT(in[fused ? 3 : 2].get_shape() == pairs,
                  "ovavss: ", fused ? "offsets do not fit logits" : "locations do not fit weights");
  OPENVINO_ASSERT(!fused || (places[1] == weights[1] && places[3] == 2), "ovavss: references do not fit logits");
  if (const char* wrong = ovavss_msda_check(&s)) OPENVINO_THROW("ovavss: ", wrong);
  return s;
}

/* The tensor as floats: its own, or a copy in `owner`. */
const float* as_floats(const ov::Tensor& tensor, std::unique_ptr<float[]>& owner) {
  const ov::element::Type type = tensor.get_element_type();
  if (type == ov::element::f32) return tensor.data<const float>();
  const auto count = static_cast<int64_t>(tensor.get_size());
  owner.reset(new float[tensor.get_size()]);
  const auto* from = static_cast<const uint16_t*>(tensor.data());
  // Two loops, not a pointer to a function: compilers vectorise these.
  if (type == ov::element::f16)
    for (int64_t i = 0; i < count; ++i) owner[i] = half_to_float(from[i]);
  else
    for (int64_t i = 0; i < count; ++i) owner[i] = bfloat16_to_float(from[i]);
  return owner.get();
}

bool is_float(const ov::element::Type& type) {
  return type == ov::element::f32 || type == ov::element::f16 || type == ov::element::bf16;
}

}  // namespace

void Attention::validate_and_infer_types() {
  const size_t ranks[] = {4, 2, fused() ? size_t{4} : size_t{6}, fused() ? size_t{6} : size_t{5}, 5};
  for (size_t i = 0; i < get_input_size(); ++i)
    NODE_VALIDATION_CHECK(this, get_input_partial_shape(i).rank().compatible(ranks[i]), "ovavss: input ", i,
                          " must have ", ranks[i], " dimensions");
  const ov::PartialShape &value = get_input_partial_shape(0), &last = get_input_partial_shape(get_input_size() - 1);
  const auto unknown = ov::Dimension::dynamic();
  const bool known = value.rank().is_static();
  set_output_type(0, get_input_element_type(0),
                  {known ? value[0] : unknown, last.rank().is_static() ? last[1] : unknown,
                   known ? value[2] * value[3] : unknown});
}

bool Attention::has_evaluate() const {
  const auto shapes = get_input_element_type(1);
  for (size_t i = 0; i < get_input_size(); ++i)
    if (i != 1 && !is_float(get_input_element_type(i))) return false;
  return shapes == ov::element::i32 || shapes == ov::element::i64;
}

bool Attention::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
  const ovavss_msda_sizes sizes = read_sizes(inputs, fused());
  outputs[0].set_shape({inputs[0].get_shape()[0], static_cast<size_t>(sizes.queries),
                        static_cast<size_t>(sizes.heads * sizes.channels)});
  Job job{};
  if (const char* wrong = prepare(job, sizes, inputs[1].data())) OPENVINO_THROW("ovavss: ", wrong);
  std::unique_ptr<float[]> owners[4];
  job.value = as_floats(inputs[0], owners[0]);
  if (fused()) {
    job.references = as_floats(inputs[2], owners[1]), job.offsets = as_floats(inputs[3], owners[2]);
    job.logits = as_floats(inputs[4], owners[3]);
  } else {
    job.locations = as_floats(inputs[2], owners[1]), job.weights = as_floats(inputs[3], owners[2]);
  }
  const ov::element::Type type = outputs[0].get_element_type();
  std::unique_ptr<float[]> result;
  if (type != ov::element::f32) result.reset(new float[outputs[0].get_size()]);
  job.output = result ? result.get() : outputs[0].data<float>();
  /* On OpenVINO's own threads: threads of ours would compete with them. */
  std::atomic<bool> done{true};
  ov::parallel_for(job.tasks, [&](int64_t task) {
    if (!run_task(job, task)) done = false;
  });
  if (!done) OPENVINO_THROW("ovavss: ", kNoMemory);
  if (!result) return true;
  constexpr int64_t kPiece = 1 << 15;
  const auto count = static_cast<int64_t>(outputs[0].get_size());
  auto* halves = static_cast<uint16_t*>(outputs[0].data());
  ov::parallel_for((count + kPiece - 1) / kPiece, [&](int64_t piece) {
    const int64_t begin = piece * kPiece, end = std::min(count, begin + kPiece);
    if (type == ov::element::f16)
      for (int64_t i = begin; i < end; ++i) halves[i] = float_to_half(job.output[i]);
    else
      for (int64_t i = begin; i < end; ++i) halves[i] = float_to_bfloat16(job.output[i]);
  });
  return true;
}

std::shared_ptr<ov::Node> MSDeformAttn::clone_with_new_inputs(const ov::OutputVector& inputs) const {
  check_new_args_count(this, inputs);
  return std::make_shared<MSDeformAttn>(inputs);
}

std::shared_ptr<ov::Node> MSDeformAttnFused::clone_with_new_inputs(const ov::OutputVector& inputs) const {
  check_new_args_count(this, inputs);
  return std::make_shared<MSDeformAttnFused>(inputs);
}

}  // namespace ovavss_msda
