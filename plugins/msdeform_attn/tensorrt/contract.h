// What the ONNX op asks of its tensors: ranks, sizes that must agree, types. Nothing here keeps state or allocates.
#ifndef OVAVSS_TENSORRT_CONTRACT_H
#define OVAVSS_TENSORRT_CONTRACT_H

#include <NvInferRuntime.h>

#include "ovavss_msdeform_attn.h"

namespace ovavss {

// A tensor's pattern has a letter a dimension, named as in ovavss_msdeform_attn.h. A small letter may also be 1, a
// digit is meant literally, and X is M * D.
struct TensorRule {
  const char* name;
  const char* pattern;
};

struct Form {
  const char* op;
  int32_t inputs;
  TensorRule tensors[6];  // the inputs, then the output
};

inline constexpr Form kPlain{"OvavssMSDeformAttn",
                             4,
                             {{"value", "BSMD"},
                              {"level_shapes", "L2"},
                              {"locations", "BQMLP2"},
                              {"weights", "BQMLP"},
                              {"output", "BQX"}}};
inline constexpr Form kFused{"OvavssMSDeformAttnFused",
                             5,
                             {{"value", "BSMD"},
                              {"level_shapes", "L2"},
                              {"references", "bQl2"},
                              {"offsets", "BQMLP2"},
                              {"logits", "BQMLP"},
                              {"output", "BQX"}}};

struct Sentence {
  char text[512];
};

// Checks `count` tensors (the inputs, or the inputs and the output) and fills the sizes; -1 is a dimension that is not
// known yet and fits everything. False: `why` names the first tensor that does not fit. `types` may be null.
bool fit(const Form& form, const nvinfer1::Dims* dims, const nvinfer1::DataType* types, int32_t count,
         ovavss_msda_sizes& sizes, Sentence& why);

// Whether the tensor at `position` may have its type, given the types of the tensors before it.
bool type_allowed(const Form& form, int32_t position, const nvinfer1::DataType* types);

}  // namespace ovavss
#endif
