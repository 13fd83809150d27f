#include "contract.h"

#include <cstdio>
#include <cstring>

namespace ovavss {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

constexpr char kLetters[] = "BSMDLQP";
constexpr int32_t kLetterCount = sizeof(kLetters) - 1;

// What is known of the sizes while the tensors are read in order, and which tensor told it.
struct Known {
  int64_t size[kLetterCount];
  const char* from[kLetterCount];
  Known() {
    for (int32_t i = 0; i < kLetterCount; ++i) size[i] = -1, from[i] = nullptr;
  }
};

int32_t letter_index(char letter) { return static_cast<int32_t>(std::strchr(kLetters, letter) - kLetters); }

bool is_small(char letter) { return letter >= 'a' && letter <= 'z'; }

char capital(char letter) { return is_small(letter) ? static_cast<char>(letter - 'a' + 'A') : letter; }

// "[2,300,-1]", cut short where it does not fit.
void write_dims(const Dims& dims, char* text, size_t room) {
  size_t used = static_cast<size_t>(std::snprintf(text, room, "["));
  for (int32_t i = 0; i < dims.nbDims && i < Dims::MAX_DIMS && used + 24 < room; ++i)
    used += static_cast<size_t>(std::snprintf(text + used, room - used, i ? ",%lld" : "%lld", (long long)dims.d[i]));
  std::snprintf(text + used, room - used, "]");
}

// "[B or 1,Q,L or 1,2]"
void write_pattern(const char* pattern, char* text, size_t room) {
  size_t used = static_cast<size_t>(std::snprintf(text, room, "["));
  for (const char* p = pattern; *p && used + 12 < room; ++p) {
    const char* comma = p == pattern ? "" : ",";
    if (*p == 'X')
      used += static_cast<size_t>(std::snprintf(text + used, room - used, "%sM*D", comma));
    else
      used += static_cast<size_t>(
          std::snprintf(text + used, room - used, is_small(*p) ? "%s%c or 1" : "%s%c", comma, capital(*p)));
  }
  std::snprintf(text + used, room - used, "]");
}

bool refuse(const Form& form, const TensorRule& rule, const Dims& dims, const char* reason, Sentence& why) {
  char got[160], wanted[64];
  write_dims(dims, got, sizeof got);
  write_pattern(rule.pattern, wanted, sizeof wanted);
  std::snprintf(why.text, sizeof why.text, "%s: %s has shape %s where %s is wanted%s.", form.op, rule.name, got, wanted,
                reason);
  return false;
}

// Reads one tensor against its pattern; letters met for the first time are learnt.
bool read(const Form& form, const TensorRule& rule, const Dims& dims, Known& known, Sentence& why) {
  if (dims.nbDims != static_cast<int32_t>(std::strlen(rule.pattern))) return refuse(form, rule, dims, "", why);
  for (int32_t i = 0; i < dims.nbDims; ++i) {
    const char letter = rule.pattern[i];
    const int64_t got = dims.d[i];
    if (got == -1) continue;
    char reason[96];
    if (letter == 'X' || (letter >= '0' && letter <= '9')) {
      const int64_t heads = known.size[letter_index('M')], channels = known.size[letter_index('D')];
      const int64_t wanted = letter != 'X' ? letter - '0' : heads < 0 || channels < 0 ? got : heads * channels;
      if (got == wanted) continue;
      std::snprintf(reason, sizeof reason, ": dimension %d must be %lld", i, (long long)wanted);
      return refuse(form, rule, dims, reason, why);
    }
    const int32_t which = letter_index(capital(letter));
    if (is_small(letter) && got == 1) continue;
    if (known.size[which] < 0 && !is_small(letter)) {
      known.size[which] = got;
      known.from[which] = rule.name;
    } else if (known.size[which] >= 0 && known.size[which] != got) {
      std::snprintf(reason, sizeof reason, ": %s tells that %c is %lld", known.from[which], capital(letter),
                    (long long)known.size[which]);
      return refuse(form, rule, dims, reason, why);
    }
  }
  return true;
}

ovavss_dtype kernel_type(DataType type) {
  return type == DataType::kHALF ? OVAVSS_FLOAT16 : type == DataType::kBF16 ? OVAVSS_BFLOAT16 : OVAVSS_FLOAT32;
}

}  // namespace

bool fit(const Form& form, const Dims* dims, const DataType* types, int32_t count, ovavss_msda_sizes& sizes,
         Sentence& why) {
  if (count != form.inputs && count != form.inputs + 1) {
    std::snprintf(why.text, sizeof why.text, "%s: %d inputs and one output are wanted, not %d tensors.", form.op,
                  form.inputs, count);
    return false;
  }
  Known known;
  for (int32_t i = 0; i < count; ++i)
    if (!read(form, form.tensors[i], dims[i], known, why)) return false;
  // A dimension that is not known yet takes a size that no check refuses.
  const auto size = [&](char letter) {
    const int64_t found = known.size[letter_index(letter)];
    return found >= 0 ? found : letter == 'D' ? 8 : 1;
  };
  sizes = ovavss_msda_sizes{};
  sizes.batch = size('B'), sizes.tokens = size('S'), sizes.heads = size('M'), sizes.channels = size('D');
  sizes.levels = size('L'), sizes.queries = size('Q'), sizes.points = size('P');
  sizes.reference_batch = form.inputs == 5 && dims[2].d[0] >= 0 ? dims[2].d[0] : sizes.batch;
  sizes.reference_levels = form.inputs == 5 && dims[2].d[2] >= 0 ? dims[2].d[2] : sizes.levels;
  if (types) {
    sizes.value_type = kernel_type(types[0]);
    sizes.weight_type = kernel_type(types[3]);
    sizes.shapes_are_int32 = types[1] == DataType::kINT32;
  }
  if (const char* wrong = ovavss_msda_check(&sizes)) {
    char got[160];
    write_dims(dims[0], got, sizeof got);
    std::snprintf(why.text, sizeof why.text, "%s: cannot be computed (value has shape %s): %s.", form.op, got, wrong);
    return false;
  }
  return true;
}

bool type_allowed(const Form& form, int32_t position, const DataType* types) {
  const DataType type = types[position], value = types[0];
  const bool is_value_type = type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
  if (position == 0) return is_value_type;
  if (position == 1) return type == DataType::kINT64 || type == DataType::kINT32;
  if (position == 2) return type == DataType::kFLOAT;  // locations and references are coordinates
  if (position == 3) return type == DataType::kFLOAT || type == value;
  if (position == 4 && form.inputs == 5) return type == types[3];  // the kernel reads offsets and logits alike
  return position == form.inputs && type == value;
}

}  // namespace ovavss
