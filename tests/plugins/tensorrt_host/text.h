// Tensors as words, answers as JSON.
#ifndef OVAVSS_TENSORRT_HOST_TEXT_H
#define OVAVSS_TENSORRT_HOST_TEXT_H

#include <NvInfer.h>

#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "unmodelled.h"

namespace text {
using namespace nvinfer1;

inline const std::vector<std::pair<std::string, DataType>> kTypes{
    {"float32", DataType::kFLOAT}, {"float16", DataType::kHALF}, {"bfloat16", DataType::kBF16},
    {"int32", DataType::kINT32},   {"int64", DataType::kINT64},  {"int8", DataType::kINT8},
    {"bool", DataType::kBOOL}};

inline std::string name_of(DataType type) {
  for (const auto& [name, candidate] : kTypes)
    if (candidate == type) return name;
  return "other";
}

inline DataType type_of(const std::string& name) {
  for (const auto& [candidate, type] : kTypes)
    if (candidate == name) return type;
  unmodelled(("type " + name).c_str());
}

inline std::string quote(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? "\\n" : c == '\t' ? "\\t" : std::string(1, c);
  }
  return out + "\"";
}

inline std::string list(const std::vector<std::string>& items) {
  std::string out = "[";
  for (const auto& item : items) out += (out.size() > 1 ? "," : "") + item;
  return out + "]";
}

inline std::string json(const Dims& dims) {
  std::vector<std::string> sizes;
  for (int32_t i = 0; i < dims.nbDims; ++i) sizes.push_back(std::to_string(dims.d[i]));
  return list(sizes);
}

// "float16:2,30,4,32" and, for another format than linear, "float16:2,30,4,32:8"
inline DynamicPluginTensorDesc tensor(const std::string& text) {
  std::istringstream words(text);
  std::string type, sizes, format, size;
  std::getline(words, type, ':'), std::getline(words, sizes, ':'), std::getline(words, format, ':');
  DynamicPluginTensorDesc out{};
  out.desc.type = type_of(type);
  out.desc.format = static_cast<TensorFormat>(format.empty() ? 0 : std::stoi(format));
  std::istringstream each(sizes);
  while (std::getline(each, size, ',')) out.desc.dims.d[out.desc.dims.nbDims++] = std::stoll(size);
  out.min = out.opt = out.max = out.desc.dims;
  return out;
}

}  // namespace text
#endif
