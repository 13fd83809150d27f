// A network that only records what the real ONNX parser adds. TensorRT's own cannot be made without a GPU, but its
// interfaces are public (NvInferImpl.h). Modelled is what a graph of the op alone needs; `unmodelled.h`, written from
// the same header by the test, ends the process with the name of any other method that is called.
#ifndef OVAVSS_TENSORRT_HOST_RECORDING_H
#define OVAVSS_TENSORRT_HOST_RECORDING_H

#include <NvInfer.h>
#include <impl/NvInferPythonPlugin.h>

#include <memory>
#include <string>
#include <vector>

#include "unmodelled.h"

namespace recording {
using namespace nvinfer1;

// -1 stands for a size that is not known while the network is built.
struct Expression final : IDimensionExpr, Unmodelled<apiv::VDimensionExpr> {
  explicit Expression(int64_t size) : size(size) { IDimensionExpr::mImpl = this; }
  bool isConstant() const override { return size >= 0; }
  int64_t getConstantValue() const override { return size; }
  const int64_t size;
};

struct Expressions final : IExprBuilder, Unmodelled<apiv::VExprBuilder> {
  Expressions() { IExprBuilder::mImpl = this; }
  const IDimensionExpr* constant(int64_t size) override {
    made.push_back(std::make_unique<Expression>(size));
    return made.back().get();
  }
  const IDimensionExpr* operation(DimensionOperation kind, const IDimensionExpr& a, const IDimensionExpr& b) override {
    if (!a.isConstant() || !b.isConstant()) return constant(-1);
    const int64_t x = a.getConstantValue(), y = b.getConstantValue();
    if (kind == DimensionOperation::kPROD) return constant(x * y);
    if (kind == DimensionOperation::kSUM) return constant(x + y);
    if (kind == DimensionOperation::kCEIL_DIV) return constant((x + y - 1) / y);
    unmodelled("this operation of dimensions");
  }
  std::vector<std::unique_ptr<Expression>> made;
};

struct Tensor final : ITensor, Unmodelled<apiv::VTensor> {
  Tensor(const char* name, DataType type, const Dims& dims) : name(name), type(type), dims(dims) {
    ITensor::mImpl = this;
  }
  void setName(const char* to) noexcept override { name = to; }
  const char* getName() const noexcept override { return name.c_str(); }
  void setDimensions(const Dims& to) noexcept override { dims = to; }
  Dims getDimensions() const noexcept override { return dims; }
  void setType(DataType to) noexcept { type = to; }  // TensorRT 11 has it no more
  DataType getType() const noexcept override { return type; }
  bool isNetworkInput() const noexcept override { return input; }
  bool isNetworkOutput() const noexcept override { return output; }
  void setDimensionName(int32_t, const char*) noexcept override {}
  std::string name;
  DataType type;
  Dims dims;
  bool input = false, output = false;
};

// What every layer has. A layer of TensorRT is two objects, this and what its kind adds.
struct LayerRecord : Unmodelled<apiv::VLayer> {
  LayerType getType() const noexcept override { return type; }
  void setName(const char* to) noexcept override { name = to; }
  const char* getName() const noexcept override { return name.c_str(); }
  int32_t getNbInputs() const noexcept override { return static_cast<int32_t>(inputs.size()); }
  ITensor* getInput(int32_t i) const noexcept override { return inputs.at(i); }
  int32_t getNbOutputs() const noexcept override { return 1; }
  ITensor* getOutput(int32_t) const noexcept override { return output.get(); }
  void setMetadata(const char*) noexcept override {}
  LayerType type{};
  std::string name;
  std::vector<Tensor*> inputs;
  std::unique_ptr<Tensor> output;
  ILayer* face = nullptr;
  IPluginV3* plugin = nullptr;
};

template <class Kind>
struct KindRecord : Unmodelled<Kind> {};

template <>
struct KindRecord<apiv::VActivationLayer> : Unmodelled<apiv::VActivationLayer> {
  void setAlpha(float) noexcept override {}
  void setBeta(float) noexcept override {}
};

template <class Interface, class Kind>
struct Layer final : Interface {
  Layer() {
    this->mLayer = &record;
    this->mImpl = &kind;
    record.face = this;
  }
  LayerRecord record;
  KindRecord<Kind> kind;
};

struct Builder final : IBuilder, Unmodelled<apiv::VBuilder> {
  Builder() { IBuilder::mImpl = this; }
  IPluginRegistry& getPluginRegistry() noexcept override { return *::getPluginRegistry(); }
};

// What a plugin says of its one output. Python's ahead-of-time plugins have an interface of their own for it.
inline bool ask(IPluginV3& plugin, const std::vector<Dims>& dims, const std::vector<DataType>& types, DataType& type,
                Dims& shape) {
  const auto count = static_cast<int32_t>(dims.size());
  auto& expressions = *new Expressions;  // Python's plugins keep them for later questions
  std::vector<DimsExprs> sizes(count);
  std::vector<int32_t> ranks;
  for (int32_t i = 0; i < count; ++i) {
    ranks.push_back(sizes[i].nbDims = dims[i].nbDims);
    for (int32_t k = 0; k < dims[i].nbDims; ++k) sizes[i].d[k] = expressions.constant(dims[i].d[k]);
  }
  DimsExprs answer{};
  auto* capability = plugin.getCapabilityInterface(PluginCapabilityType::kBUILD);
  int32_t code = 0;
  if (std::string(capability->getInterfaceInfo().kind) == "PLUGIN_V3ONE_BUILD") {
    auto* build = static_cast<IPluginV3OneBuild*>(capability);
    code = build->getNbOutputs() != 1 || build->getOutputDataTypes(&type, 1, types.data(), count) ||
           build->getOutputShapes(sizes.data(), count, nullptr, 0, &answer, 1, expressions);
  } else {
    auto* build = static_cast<IPluginV3QuickBuild*>(capability);
    code = build->getNbOutputs() != 1 || build->getOutputDataTypes(&type, 1, types.data(), ranks.data(), count) ||
           build->getOutputShapes(sizes.data(), count, nullptr, 0, &answer, 1, expressions);
  }
  shape.nbDims = answer.nbDims;
  for (int32_t k = 0; !code && k < answer.nbDims; ++k) shape.d[k] = static_cast<const Expression*>(answer.d[k])->size;
  return code == 0;
}

struct Network final : INetworkDefinition, Unmodelled<apiv::VNetworkDefinition> {
  Network() { INetworkDefinition::mImpl = this; }

  ITensor* addInput(const char* name, DataType type, const Dims& dims) noexcept override {
    inputs.push_back(std::make_unique<Tensor>(name, type, dims));
    inputs.back()->input = true;
    return inputs.back().get();
  }
  void markOutput(ITensor& tensor) noexcept override {
    outputs.push_back(static_cast<Tensor*>(&tensor));
    outputs.back()->output = true;
  }
  IConstantLayer* addConstant(const Dims& dims, Weights weights) noexcept override {
    return add<IConstantLayer, apiv::VConstantLayer>(LayerType::kCONSTANT, {}, weights.type, dims);
  }
  IActivationLayer* addActivation(ITensor& input, ActivationType) noexcept override {
    return add<IActivationLayer, apiv::VActivationLayer>(LayerType::kACTIVATION, {&input}, input.getType(),
                                                         input.getDimensions());
  }
  // As TensorRT: the layer keeps a clone, and what the plugin says of its output is asked at once.
  IPluginV3Layer* addPluginV3(ITensor* const* in, int32_t count, ITensor* const*, int32_t shape_count,
                              IPluginV3& plugin) noexcept override {
    if (shape_count) unmodelled("shape inputs of plugins");
    IPluginV3* mine = plugin.clone();
    std::vector<Dims> in_dims;
    std::vector<DataType> in_types;
    for (int32_t i = 0; i < count; ++i) in_dims.push_back(in[i]->getDimensions()), in_types.push_back(in[i]->getType());
    DataType type{};
    Dims dims{};
    if (!ask(*mine, in_dims, in_types, type, dims)) return nullptr;
    auto* layer = add<IPluginV3Layer, apiv::VPluginV3Layer>(LayerType::kPLUGIN_V3, {in, in + count}, type, dims);
    layers.back()->plugin = mine;
    return layer;
  }

  int32_t getNbLayers() const noexcept override { return static_cast<int32_t>(layers.size()); }
  ILayer* getLayer(int32_t i) const noexcept override { return layers.at(i)->face; }
  int32_t getNbInputs() const noexcept override { return static_cast<int32_t>(inputs.size()); }
  ITensor* getInput(int32_t i) const noexcept override { return inputs.at(i).get(); }
  int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(outputs.size()); }
  ITensor* getOutput(int32_t i) const noexcept override { return outputs.at(i); }
  void setErrorRecorder(IErrorRecorder* to) noexcept override { recorder = to; }
  IErrorRecorder* getErrorRecorder() const noexcept override { return recorder; }
  IBuilder& getBuilder() const noexcept override { return builder; }
  bool getFlag(NetworkDefinitionCreationFlag flag) const noexcept override {
    return flag == NetworkDefinitionCreationFlag::kSTRONGLY_TYPED;
  }
  bool setWeightsName(Weights, const char*) noexcept override { return true; }

  std::vector<LayerRecord*> layers;  // they live as long as the process

 private:
  template <class Interface, class Kind>
  Interface* add(LayerType type, const std::vector<ITensor*>& in, DataType output_type, const Dims& dims) {
    auto* layer = new Layer<Interface, Kind>;
    layer->record.type = type;
    for (ITensor* tensor : in) layer->record.inputs.push_back(static_cast<Tensor*>(tensor));
    layer->record.output = std::make_unique<Tensor>("", output_type, dims);
    layers.push_back(&layer->record);
    return layer;
  }

  mutable Builder builder;
  IErrorRecorder* recorder = nullptr;
  std::vector<std::unique_ptr<Tensor>> inputs;
  std::vector<Tensor*> outputs;
};

}  // namespace recording
#endif
