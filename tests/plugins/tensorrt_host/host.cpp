// Takes the plugin through its life in the real TensorRT registry and ONNX parser, on a machine with no GPU. Reads
// commands from stdin, a line each, and answers each with a line of JSON that also holds what was logged meanwhile.
// The network and the expressions are ours (recording.h); nothing is built, and enqueue runs whatever kernel the plugin
// library was linked with, on host memory.
#include <NvInfer.h>
#include <NvInferPlugin.h>
#include <NvOnnxParser.h>
#include <dlfcn.h>

#include <fstream>
#include <iostream>

#include "recording.h"
#include "text.h"

namespace {
using namespace nvinfer1;
using namespace text;
using text::json;

struct Log final : ILogger {
  void log(Severity severity, const char* text) noexcept override {
    if (severity <= Severity::kWARNING) lines.push_back(quote(text));
  }
  std::vector<std::string> lines;
};

struct Finder final : ILoggerFinder {
  explicit Finder(Log& log) : log(log) {}
  ILogger* findLogger() override { return &log; }
  Log& log;
};

// The plugin under test, and the tensors of its next calls.
struct Subject {
  IPluginV3* plugin = nullptr;
  std::vector<DynamicPluginTensorDesc> tensors;  // inputs, then the output

  void take(IPluginV3* other) {
    delete plugin;
    plugin = other;
  }
  template <class Interface>
  Interface* as(PluginCapabilityType type) const {
    if (!plugin) unmodelled("a command that needs a plugin, without one");
    return static_cast<Interface*>(plugin->getCapabilityInterface(type));
  }
  IPluginV3OneCore* core() const { return as<IPluginV3OneCore>(PluginCapabilityType::kCORE); }
  IPluginV3OneBuild* build() const { return as<IPluginV3OneBuild>(PluginCapabilityType::kBUILD); }
  IPluginV3OneRuntime* runtime() const { return as<IPluginV3OneRuntime>(PluginCapabilityType::kRUNTIME); }
  int32_t inputs() const { return static_cast<int32_t>(tensors.size()) - 1; }
  std::vector<PluginTensorDesc> descs() const {
    std::vector<PluginTensorDesc> out;
    for (const auto& tensor : tensors) out.push_back(tensor.desc);
    return out;
  }
};

std::string identity(const Subject& subject) {
  const auto* core = subject.core();
  return "\"name\":" + quote(core->getPluginName()) + ",\"version\":" + quote(core->getPluginVersion()) +
         ",\"namespace\":" + quote(core->getPluginNamespace());
}

std::string json(const PluginFieldCollection& fields) {
  std::vector<std::string> items;
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    const bool number = field.type == PluginFieldType::kINT32 && field.length == 1 && field.data;
    items.push_back("{\"name\":" + quote(field.name) + ",\"value\":" +
                    (number ? std::to_string(*static_cast<const int32_t*>(field.data)) : "null") + "}");
  }
  return list(items);
}

IPluginCreatorV3One* creator(const std::string& name, const std::string& version, const std::string& space) {
  return static_cast<IPluginCreatorV3One*>(
      getPluginRegistry()->getCreator(name.c_str(), version.c_str(), space.c_str()));
}

std::string output_of(const Subject& subject) {
  std::vector<Dims> dims;
  std::vector<DataType> types;
  for (int32_t i = 0; i < subject.inputs(); ++i) {
    dims.push_back(subject.tensors[i].desc.dims);
    types.push_back(subject.tensors[i].desc.type);
  }
  DataType type{};
  Dims shape{};
  if (!recording::ask(*subject.plugin, dims, types, type, shape)) return "\"refused\":true";
  return "\"refused\":false,\"type\":" + quote(name_of(type)) + ",\"dims\":" + json(shape);
}

std::string parse(const std::string& path, Subject& subject, ILogger& log) {
  auto* network = new recording::Network;  // layers point into it
  auto* parser = nvonnxparser::createParser(*network, log);
  if (!parser) unmodelled("a parser that cannot be made");
  const bool parsed = parser->parseFromFile(path.c_str(), static_cast<int32_t>(ILogger::Severity::kWARNING));
  std::vector<std::string> errors, layers;
  for (int32_t i = 0; i < parser->getNbErrors(); ++i) errors.push_back(quote(parser->getError(i)->desc()));
  for (auto* layer : network->layers) {
    std::vector<std::string> inputs;
    for (auto* input : layer->inputs) inputs.push_back(quote(input->name));
    std::string item = "{\"kind\":" + std::to_string(static_cast<int32_t>(layer->type)) +
                       ",\"inputs\":" + list(inputs) + ",\"type\":" + quote(name_of(layer->output->type)) +
                       ",\"dims\":" + json(layer->output->dims);
    if (layer->plugin) {
      subject.take(layer->plugin->clone());
      item += "," + identity(subject);
    }
    layers.push_back(item + "}");
  }
  return std::string("\"parsed\":") + (parsed ? "true" : "false") + ",\"errors\":" + list(errors) +
         ",\"layers\":" + list(layers);
}

// The fields as an engine keeps them: by value, while the plugin that wrote them is gone.
std::string reread(Subject& subject) {
  const auto* core = subject.core();
  IPluginCreatorV3One* maker = creator(core->getPluginName(), core->getPluginVersion(), core->getPluginNamespace());
  const PluginFieldCollection* written = subject.runtime()->getFieldsToSerialize();
  const std::string shown = json(*written);
  std::vector<std::string> names, bytes;
  std::vector<PluginField> fields(written->fields, written->fields + written->nbFields);
  for (const auto& field : fields) {
    if (field.type != PluginFieldType::kINT32) unmodelled("serialised fields that are not int32");
    names.emplace_back(field.name);
    bytes.emplace_back(static_cast<const char*>(field.data), sizeof(int32_t) * field.length);
  }
  subject.take(nullptr);
  for (size_t i = 0; i < fields.size(); ++i) fields[i].name = names[i].c_str(), fields[i].data = bytes[i].data();
  const PluginFieldCollection kept{static_cast<int32_t>(fields.size()), fields.data()};
  subject.take(maker ? maker->createPlugin("reread", &kept, TensorRTPhase::kRUNTIME) : nullptr);
  return "\"fields\":" + shown + "," + (subject.plugin ? identity(subject) : "\"name\":null");
}

std::string create(std::istringstream& words, Subject& subject) {
  std::string name, phase, field;
  words >> name >> phase;
  std::vector<std::string> names;
  std::vector<int32_t> values;
  while (words >> field) {
    names.push_back(field.substr(0, field.find('=')));
    values.push_back(std::stoi(field.substr(field.find('=') + 1)));
  }
  std::vector<PluginField> fields;
  for (size_t i = 0; i < names.size(); ++i)
    fields.emplace_back(names[i].c_str(), &values[i], PluginFieldType::kINT32, 1);
  const PluginFieldCollection given{static_cast<int32_t>(fields.size()), fields.data()};
  IPluginCreatorV3One* maker = creator(name, "1", "ovavss");
  if (!maker) return "\"created\":false";
  subject.take(maker->createPlugin("made", &given, phase == "run" ? TensorRTPhase::kRUNTIME : TensorRTPhase::kBUILD));
  return std::string("\"created\":") + (subject.plugin ? "true" : "false");
}

// Files hold the inputs; the output is written over the last one. Without files every address is null.
std::string enqueue(std::istringstream& words, Subject& subject) {
  std::vector<std::string> paths, blobs;
  for (std::string path; words >> path;) paths.push_back(path);
  std::vector<const void*> inputs(subject.inputs());
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    blobs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  for (size_t i = 0; i < inputs.size() && i < blobs.size(); ++i) inputs[i] = blobs[i].data();
  void* output = blobs.empty() ? nullptr : blobs.back().data();
  const auto descs = subject.descs();
  const int32_t code =
      subject.runtime()->enqueue(descs.data(), &descs.back(), inputs.data(), &output, nullptr, nullptr);
  if (!blobs.empty()) std::ofstream(paths.back(), std::ios::binary).write(blobs.back().data(), blobs.back().size());
  return "\"code\":" + std::to_string(code);
}

std::string answer(const std::string& line, Subject& subject, Log& log) {
  std::istringstream words(line);
  std::string command, name, version, space;
  words >> command;
  if (command == "load") {
    words >> name;
    return std::string("\"loaded\":") + (getPluginRegistry()->loadLibrary(name.c_str()) ? "true" : "false");
  }
  if (command == "finder") {  // as the runtime does for libraries that an engine carries along
    words >> name;
    void* library = dlopen(name.c_str(), RTLD_NOW);
    auto* set = library ? reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder")) : nullptr;
    static Finder finder(log);
    if (set) set(&finder);
    return std::string("\"set\":") + (set ? "true" : "false");
  }
  if (command == "find") {
    words >> name >> version >> space;
    auto* found = creator(name, version, space);
    return std::string("\"found\":") + (found ? "true,\"fields\":" + json(*found->getFieldNames()) : "false");
  }
  if (command == "create") return create(words, subject);
  if (command == "parse") {
    words >> name;
    return parse(name, subject, log);
  }
  if (command == "clone" || command == "attach") {
    subject.take(command == "clone" ? subject.plugin->clone() : subject.runtime()->attachToContext(nullptr));
    return identity(subject);
  }
  if (command == "reread") return reread(subject);
  if (command == "tensors") {
    subject.tensors.clear();
    while (words >> name) subject.tensors.push_back(tensor(name));
    return "\"count\":" + std::to_string(subject.tensors.size());
  }
  if (command == "output") return output_of(subject);
  if (command == "formats") {  // how many tensors of the list the plugin takes, asked in order as the builder asks
    int32_t taken = 0;
    while (taken <= subject.inputs() &&
           subject.build()->supportsFormatCombination(taken, subject.tensors.data(), subject.inputs(), 1))
      ++taken;
    return "\"taken\":" + std::to_string(taken);
  }
  if (command == "configure")
    return "\"code\":" + std::to_string(subject.build()->configurePlugin(subject.tensors.data(), subject.inputs(),
                                                                         &subject.tensors.back(), 1));
  if (command == "change") {
    const auto descs = subject.descs();
    return "\"code\":" +
           std::to_string(subject.runtime()->onShapeChange(descs.data(), subject.inputs(), &descs.back(), 1));
  }
  if (command == "enqueue") return enqueue(words, subject);
  unmodelled(("command " + command).c_str());
}

}  // namespace

int main() {
  Log log;
  initLibNvInferPlugins(&log, "");
  Subject subject;
  for (std::string line; std::getline(std::cin, line);) {
    const std::string said = answer(line, subject, log);
    std::cout << "{" << said << ",\"log\":" << list(log.lines) << "}" << std::endl;
    log.lines.clear();
  }
  subject.take(nullptr);
  return 0;
}
