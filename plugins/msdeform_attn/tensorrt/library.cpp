// What TensorRT sees of the shared library: the two creators and the logger. It does not link libnvinfer.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <new>

#include "plugin.h"

namespace ovavss {
namespace {

using namespace nvinfer1;

ILoggerFinder* logger_finder = nullptr;

ILogger* find_logger() noexcept {
  if (ILogger* logger = logger_finder ? logger_finder->findLogger() : nullptr) return logger;
  using GetLogger = ILogger* (*)() noexcept;  // libnvinfer's own, where it is loaded for all to see
  const auto get = reinterpret_cast<GetLogger>(dlsym(RTLD_DEFAULT, "getLogger"));
  return get ? get() : nullptr;
}

class Creator final : public IPluginCreatorV3One {
 public:
  explicit Creator(const Form& form) noexcept : form_(form) {}

  const char* getPluginName() const noexcept override { return form_.op; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }
  // The node has no attributes of its own. The revision is not named here, or the parser would warn that it is missing.
  const PluginFieldCollection* getFieldNames() noexcept override { return &fields_; }

  IPluginV3* createPlugin(const char*, const PluginFieldCollection* fields, TensorRTPhase) noexcept override {
    for (int32_t i = 0; fields && i < fields->nbFields; ++i)
      if (!known(fields->fields[i])) return nullptr;
    return new (std::nothrow) Plugin(form_);
  }

 private:
  // An engine of another revision of the op, or a field that would be ignored, must not pass silently.
  bool known(const PluginField& field) const noexcept {
    Sentence why;
    int32_t revision = 0;
    if (!field.name || std::strcmp(field.name, kRevisionField) != 0)
      std::snprintf(why.text, sizeof why.text, "%s: unknown field '%s'.", form_.op, field.name ? field.name : "");
    else if (field.type != PluginFieldType::kINT32 || field.length != 1 || !field.data)
      std::snprintf(why.text, sizeof why.text, "%s: field '%s' must be one int32.", form_.op, field.name);
    else if (std::memcpy(&revision, field.data, sizeof revision); revision != kRevision)
      std::snprintf(why.text, sizeof why.text, "%s: revision %d is wanted, this library knows revision %d.", form_.op,
                    revision, kRevision);
    else
      return true;
    log(ILogger::Severity::kERROR, why.text);
    return false;
  }

  const Form& form_;
  PluginFieldCollection fields_{0, nullptr};
};

}  // namespace

void log(nvinfer1::ILogger::Severity severity, const char* sentence) noexcept {
  if (ILogger* logger = find_logger())
    logger->log(severity, sentence);
  else
    std::fprintf(stderr, "%s\n", sentence);
}

}  // namespace ovavss

#define OVAVSS_EXPORT extern "C" __attribute__((visibility("default")))

OVAVSS_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { ovavss::logger_finder = finder; }

OVAVSS_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static ovavss::Creator plain(ovavss::kPlain), fused(ovavss::kFused);
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&plain, &fused};
  count = 2;
  return creators;
}
