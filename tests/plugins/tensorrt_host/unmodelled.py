"""Writes unmodelled.h: the interface classes that a recording network stands in for, each method ending the process."""

import re
from pathlib import Path

CLASSES = [
    *("VNetworkDefinition", "VBuilder", "VTensor", "VDimensionExpr", "VExprBuilder"),
    *("VLayer", "VConstantLayer", "VActivationLayer", "VPluginV3Layer"),
]

HEAD = """#pragma once
#include <NvInfer.h>
#include <cstdio>
#include <cstdlib>
[[noreturn]] inline void unmodelled(const char* what) {
  std::fprintf(stderr, "NOT MODELLED: %s\\n", what);
  std::_Exit(3);
}
namespace nvinfer1::apiv {
template <class Interface>
struct Unmodelled;
"""


def specialisation(name: str, body: str) -> str:
    methods = re.findall(r"virtual\s+([^;]*?)\s*=\s*0;", body)
    names = [re.search(r"(\w+)\s*\(", method).group(1) for method in methods]
    lines = [f'  {method} override {{ unmodelled("{name}::{which}"); }}' for method, which in zip(methods, names)]
    return "\n".join([f"template <>\nstruct Unmodelled<{name}> : {name} {{", *lines, "};"])


def header(include: Path) -> str:
    text = re.sub(r"//[^\n]*", "", (include / "NvInferImpl.h").read_text())
    bodies = dict(re.findall(r"class (V\w+) : public VRoot\s*\{(.*?)\n\};", text, flags=re.DOTALL))
    parts = [specialisation(name, bodies[name]) for name in CLASSES]
    return HEAD + "\n".join(parts) + "\n}\nusing nvinfer1::apiv::Unmodelled;\n"
