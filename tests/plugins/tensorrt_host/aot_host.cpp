// Asks an ahead-of-time Python plugin what TensorRT's builder would ask. Loaded into the Python process that registered
// the plugin, beside the real TensorRT libraries; see aot_life.py.
#include <NvInfer.h>
#include <NvOnnxParser.h>
#include <impl/NvInferPythonPlugin.h>

#include <cstring>

#include "recording.h"
#include "text.h"

namespace {
using namespace nvinfer1;
using namespace text;

// A kernel's scalar parameters, or one launch size.
struct Scalars final : ISymExprs, ISymExprsImpl {
  Scalars() { ISymExprs::mImpl = this; }
  ISymExpr* getSymExpr(int32_t i) const noexcept override { return items.at(i); }
  bool setSymExpr(int32_t i, ISymExpr* to) noexcept override {
    // Python's objects do not outlive the call.
    items.at(i) = to;
    values.at(i) = static_cast<IDimensionExpr*>(to->getExpr())->getConstantValue();
    return true;
  }
  int32_t getNbSymExprs() const noexcept override { return static_cast<int32_t>(items.size()); }
  bool setNbSymExprs(int32_t count) noexcept override {
    items.resize(count), values.resize(count);
    return true;
  }
  std::vector<ISymExpr*> items;
  std::vector<int64_t> values;
};

struct Launch final : IKernelLaunchParams, IKernelLaunchParamsImpl {
  Launch() { IKernelLaunchParams::mImpl = this; }
  ISymExpr* getGridX() noexcept override { return nullptr; }
  ISymExpr* getGridY() noexcept override { return nullptr; }
  ISymExpr* getGridZ() noexcept override { return nullptr; }
  ISymExpr* getBlockX() noexcept override { return nullptr; }
  ISymExpr* getBlockY() noexcept override { return nullptr; }
  ISymExpr* getBlockZ() noexcept override { return nullptr; }
  ISymExpr* getSharedMem() noexcept override { return nullptr; }
  bool setGridX(ISymExpr* to) noexcept override { return set(0, to); }
  bool setGridY(ISymExpr* to) noexcept override { return set(1, to); }
  bool setGridZ(ISymExpr* to) noexcept override { return set(2, to); }
  bool setBlockX(ISymExpr* to) noexcept override { return set(3, to); }
  bool setBlockY(ISymExpr* to) noexcept override { return set(4, to); }
  bool setBlockZ(ISymExpr* to) noexcept override { return set(5, to); }
  bool setSharedMem(ISymExpr* to) noexcept override { return set(6, to); }
  bool set(int which, ISymExpr* to) {
    values[which] = static_cast<IDimensionExpr*>(to->getExpr())->getConstantValue();
    return true;
  }
  int64_t values[7] = {};
};

template <class Numbers>
std::string numbers(const Numbers& values) {
  std::vector<std::string> items;
  for (int64_t value : values) items.push_back(std::to_string(value));
  return list(items);
}

struct Log final : ILogger {
  void log(Severity severity, const char* text) noexcept override {
    if (severity <= Severity::kERROR) std::fprintf(stderr, "%s\n", text);
  }
};

std::string life(IPluginV3& plugin, const std::vector<DynamicPluginTensorDesc>& tensors) {
  const auto inputs = static_cast<int32_t>(tensors.size()) - 1;
  std::vector<Dims> dims;
  std::vector<DataType> types;
  std::vector<PluginTensorDesc> descs;
  for (const auto& tensor : tensors) descs.push_back(tensor.desc);
  for (int32_t i = 0; i < inputs; ++i) dims.push_back(descs[i].dims), types.push_back(descs[i].type);
  DataType type{};
  Dims shape{};
  if (!recording::ask(plugin, dims, types, type, shape)) return "\"refused\":\"output\"";

  auto* capability = plugin.getCapabilityInterface(PluginCapabilityType::kBUILD);
  std::string kind = capability->getInterfaceInfo().kind;
  if (kind != "PLUGIN_V3QUICKAOT_BUILD") return "\"refused\":" + quote(kind);
  auto* build = static_cast<IPluginV3QuickAOTBuild*>(capability);
  const int32_t combinations = build->getNbSupportedFormatCombinations(tensors.data(), inputs, 1);
  recording::Expressions expressions;
  std::vector<DimsExprs> sizes(inputs);
  for (int32_t i = 0; i < inputs; ++i) {
    sizes[i].nbDims = dims[i].nbDims;
    for (int32_t k = 0; k < dims[i].nbDims; ++k) sizes[i].d[k] = expressions.constant(dims[i].d[k]);
  }
  Launch launch;
  Scalars scalars;
  if (build->setTactic(0) || build->configurePlugin(tensors.data(), inputs, &tensors.back(), 1) ||
      build->getLaunchParams(sizes.data(), tensors.data(), inputs, 1, &launch, &scalars, expressions))
    return "\"refused\":\"launch\"";
  const char* name = nullptr;
  char* code = nullptr;
  int32_t size = 0;
  if (build->getKernel(descs.data(), inputs, &descs.back(), 1, &name, &code, &size)) return "\"refused\":\"kernel\"";
  return "\"refused\":null,\"type\":" + quote(name_of(type)) + ",\"dims\":" + json(shape) + ",\"combinations\":" +
         std::to_string(combinations) + ",\"launch\":" + numbers(launch.values) + ",\"scalars\":" +
         numbers(scalars.values) + ",\"kernel\":" + quote(name) + ",\"code\":" + quote(std::string(code, size));
}

}  // namespace

extern "C" const char* aot_life(const char* name, const char* words) {
  static std::string out;
  std::vector<DynamicPluginTensorDesc> tensors;
  std::istringstream stream(words);
  for (std::string word; stream >> word;) tensors.push_back(tensor(word));
  auto* creator = static_cast<IPluginCreatorV3Quick*>(getPluginRegistry()->getCreator(name, "1", "ovavss"));
  if (!creator) return "{\"refused\":\"creator\"}";
  const PluginFieldCollection none{0, nullptr};
  IPluginV3* plugin =
      creator->createPlugin(name, "ovavss", &none, TensorRTPhase::kBUILD, QuickPluginCreationRequest::kSTRICT_AOT);
  if (!plugin) return "{\"refused\":\"creation\"}";
  out = "{" + life(*plugin, tensors) + "}";
  return out.c_str();
}

// Name of the plugin that the real parser takes for the only node of an ONNX file; "" where it takes none.
extern "C" const char* aot_parse(const char* path) {
  static std::string out;
  static Log log;
  auto* network = new recording::Network;
  auto* parser = nvonnxparser::createParser(*network, log);
  out.clear();
  if (parser->parseFromFile(path, static_cast<int32_t>(ILogger::Severity::kWARNING)) && network->layers.size() == 1 &&
      network->layers[0]->plugin) {
    auto* plugin = network->layers[0]->plugin;
    auto* capability = plugin->getCapabilityInterface(PluginCapabilityType::kCORE);
    out = std::string(capability->getInterfaceInfo().kind) + " " +
          static_cast<IPluginV3QuickCore*>(capability)->getPluginName();
  }
  return out.c_str();
}
