#include "plugin.h"

#include <cstdio>
#include <new>

namespace ovavss {
namespace {

using namespace nvinfer1;

constexpr int32_t kRefused = 1;
constexpr int32_t kMostTensors = 6;

int32_t refuse(const char* sentence) noexcept {
  log(ILogger::Severity::kERROR, sentence);
  return kRefused;
}

// The tensors of a call as plain arrays. Only as many as the form can have are read: `fit` refuses another count.
struct Tensors {
  Dims dims[kMostTensors];
  DataType types[kMostTensors];
  int32_t count = 0;

  void add(const PluginTensorDesc& desc) noexcept {
    if (count < kMostTensors) dims[count] = desc.dims, types[count] = desc.type;
    ++count;
  }
};

Tensors gather(const PluginTensorDesc* inputs, int32_t input_count, const PluginTensorDesc* outputs,
               int32_t output_count) noexcept {
  Tensors tensors;
  for (int32_t i = 0; i < input_count; ++i) tensors.add(inputs[i]);
  for (int32_t i = 0; i < output_count; ++i) tensors.add(outputs[i]);
  return tensors;
}

int32_t check(const Form& form, const Tensors& tensors) noexcept {
  ovavss_msda_sizes sizes;
  Sentence why;
  return fit(form, tensors.dims, tensors.types, tensors.count, sizes, why) ? 0 : refuse(why.text);
}

#ifdef OVAVSS_MSDA_WITH_CUDA
constexpr char kLaunchFailed[] = "the kernel was not launched";

int32_t launch(const Form& form, const ovavss_msda_sizes& sizes, const void* const* inputs, void* output,
               cudaStream_t stream) noexcept {
  const auto* coordinates = static_cast<const float*>(inputs[2]);
  if (form.inputs == kPlain.inputs)
    return ovavss_msda_plain_cuda(&sizes, inputs[0], inputs[1], coordinates, inputs[3], output, stream);
  return ovavss_msda_fused_cuda(&sizes, inputs[0], inputs[1], coordinates, inputs[3], inputs[4], output, stream);
}
#else
constexpr char kLaunchFailed[] = "the plugin library was built without CUDA; configure it again where nvcc is found";

int32_t launch(const Form&, const ovavss_msda_sizes&, const void* const*, void*, cudaStream_t) noexcept {
  return cudaErrorNotSupported;
}
#endif

}  // namespace

Plugin::Plugin(const Form& form) noexcept
    : form_(form), field_(kRevisionField, &revision_, PluginFieldType::kINT32, 1), fields_{1, &field_} {}

IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

IPluginV3* Plugin::clone() noexcept { return new (std::nothrow) Plugin(form_); }

IPluginV3* Plugin::attachToContext(IPluginResourceContext*) noexcept { return clone(); }

const PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept { return &fields_; }

int32_t Plugin::getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                                   int32_t input_count) const noexcept {
  if (input_count != form_.inputs || output_count != 1) return refuse("ovavss: wrong number of tensors.");
  outputs[0] = inputs[0];
  return 0;
}

int32_t Plugin::getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t,
                                DimsExprs* outputs, int32_t output_count, IExprBuilder& builder) noexcept {
  Tensors tensors;
  for (int32_t i = 0; i < input_count; ++i) {
    PluginTensorDesc desc{};
    desc.dims.nbDims = inputs[i].nbDims;
    for (int32_t k = 0; k < inputs[i].nbDims && k < Dims::MAX_DIMS; ++k)
      desc.dims.d[k] = inputs[i].d[k]->isConstant() ? inputs[i].d[k]->getConstantValue() : -1;
    tensors.add(desc);
  }
  ovavss_msda_sizes sizes;
  Sentence why;
  if (output_count != 1) return refuse("ovavss: wrong number of outputs.");
  if (!fit(form_, tensors.dims, nullptr, tensors.count, sizes, why)) return refuse(why.text);
  const DimsExprs &value = inputs[0], &locations = inputs[form_.inputs - 2];  // the fused form's offsets
  outputs[0].nbDims = 3;
  outputs[0].d[0] = value.d[0];
  outputs[0].d[1] = locations.d[1];
  outputs[0].d[2] = builder.operation(DimensionOperation::kPROD, *value.d[2], *value.d[3]);
  return 0;
}

bool Plugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t input_count,
                                       int32_t output_count) noexcept {
  if (input_count != form_.inputs || output_count != 1 || position < 0 || position > form_.inputs) return false;
  DataType types[kMostTensors];
  for (int32_t i = 0; i <= position; ++i) types[i] = tensors[i].desc.type;
  return tensors[position].desc.format == TensorFormat::kLINEAR && type_allowed(form_, position, types);
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                                const DynamicPluginTensorDesc* outputs, int32_t output_count) noexcept {
  Tensors tensors;
  for (int32_t i = 0; i < input_count; ++i) tensors.add(inputs[i].desc);
  for (int32_t i = 0; i < output_count; ++i) tensors.add(outputs[i].desc);
  return check(form_, tensors);
}

int32_t Plugin::onShapeChange(const PluginTensorDesc* inputs, int32_t input_count, const PluginTensorDesc* outputs,
                              int32_t output_count) noexcept {
  return check(form_, gather(inputs, input_count, outputs, output_count));
}

int32_t Plugin::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs,
                        const void* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept {
  const Tensors tensors = gather(input_descs, form_.inputs, output_descs, 1);
  ovavss_msda_sizes sizes;
  Sentence why;
  if (!fit(form_, tensors.dims, tensors.types, tensors.count, sizes, why)) return refuse(why.text);
  const int32_t error = launch(form_, sizes, inputs, outputs[0], stream);
  if (error != 0) {
    std::snprintf(why.text, sizeof why.text, "%s: %s (CUDA error %d).", form_.op, kLaunchFailed, error);
    log(ILogger::Severity::kERROR, why.text);
  }
  return error;
}

}  // namespace ovavss
