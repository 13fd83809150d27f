"""The ahead-of-time Python plugins in the real TensorRT registry, bindings and ONNX parser, with no GPU.

The engine that would hold the PTX is not built here; ptxas accepts the PTX for the architectures that it must serve.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tensorrt_host.session import PLUGIN, Missing, PythonPlugins, build_for_python, interpreter
from test_tensorrt_plugin import NAMES, SHAPES, TENSORS, WHY_NOT, B, D, L, M, P, Q, S, model, tensors, types_of

sys.path.append(str(PLUGIN))

import static_figures


def why_not_python(major: int) -> str | None:
    try:
        static_figures.tool("nvcc")
        interpreter(major)
    except (Missing, static_figures.Missing) as missing:
        return str(missing)
    return WHY_NOT[major]


WHY_NOT_PYTHON = {major: why_not_python(major) for major in WHY_NOT}
if all(WHY_NOT_PYTHON.values()):
    pytest.skip(next(iter(WHY_NOT_PYTHON.values())), allow_module_level=True)


@pytest.fixture(scope="module", params=[10, 11], ids=["tensorrt10", "tensorrt11"])
def plugins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PythonPlugins:
    if WHY_NOT_PYTHON[request.param]:
        pytest.skip(WHY_NOT_PYTHON[request.param])
    return build_for_python(request.param, tmp_path_factory.mktemp(f"aot{request.param}"))


def question(form: str, types: dict[str, str], **shapes: tuple[int, ...]) -> list[str]:
    return [NAMES[form], tensors(form, types, **shapes).removeprefix("tensors ")]


def check_ptx(code: str, inputs: int, target: int, folder: Path) -> None:
    """One entry point with the inputs, nine sizes and the output as parameters, that assembles for newer GPUs too."""
    (entry,) = re.findall(r"\.visible \.entry ovavss_msda_aot\((.*?)\)", code, flags=re.DOTALL)
    assert re.findall(r"\.param \.(u64|u32)", entry) == ["u64"] * inputs + ["u32"] * 9 + ["u64"]
    assert f".target sm_{target}" in code
    (folder / "kernel.ptx").write_text(code)
    for arch in (80, 90, 120):
        command = [static_figures.tool("ptxas"), f"-arch=sm_{arch}", "-v", "kernel.ptx", "-o", "kernel.cubin"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert " 0 bytes spill stores, 0 bytes spill loads" in done.stderr


@pytest.mark.parametrize("form", NAMES)
@pytest.mark.parametrize(("value", "target"), [("float32", 75), ("float16", 75), ("bfloat16", 80)])
def test_what_the_builder_asks(plugins: PythonPlugins, tmp_path: Path, form: str, value: str, target: int) -> None:
    (answer,), _ = plugins.ask(question(form, types_of(form, value)))
    assert answer["refused"] is None
    assert (answer["type"], answer["dims"]) == (value, [B, Q, M * D])
    assert answer["combinations"] == 1  # the types of the network, all linear
    threads = B * Q * M * D // (4 if value == "float32" else 8)
    assert answer["launch"] == [-(-threads // 256), 1, 1, 256, 1, 1, 0]
    assert answer["scalars"] == [B, S, M, D, L, Q, P, 1 if form == "fused" else B, L]
    assert answer["kernel"] == "ovavss_msda_aot"
    check_ptx(answer["code"], len(TENSORS[form]) - 1, target, tmp_path)


def test_onnx_node_becomes_the_python_plugin(plugins: PythonPlugins, tmp_path: Path) -> None:
    files = [model(tmp_path, form, body) for form in NAMES for body in (False, True)]
    answers, _ = plugins.ask(*[[str(file)] for file in files])
    wanted = [f"PLUGIN_V3QUICK_CORE {NAMES[form]}" for form in NAMES for _ in (False, True)]
    assert [answer["plugin"] for answer in answers] == wanted


BAD = [
    ("plain", types_of("plain", "int32"), {}, "value is DataType.INT32; float32, float16 and bfloat16 are known."),
    ("plain", types_of("plain", "float16", locations="float16"), {}, "must be float32, not DataType.HALF."),
    (
        "fused",
        types_of("fused", "float16", offsets="float16"),
        {},
        "offsets are DataType.HALF and logits DataType.FLOAT.",
    ),
    ("plain", types_of("plain"), {"value": (B, S, M, 12)}, "the channels of a head must be a constant of the graph"),
    ("plain", types_of("plain"), {"weights": SHAPES["weights"][:4]}, "weights has 4 dimensions where 5 are wanted."),
]


def test_what_the_kernel_cannot_do_is_refused_with_a_sentence(plugins: PythonPlugins) -> None:
    for form, types, shapes, sentence in BAD:
        (answer,), heard = plugins.ask(question(form, types, **shapes))
        assert answer["refused"] in ("output", "launch")
        assert sentence in heard
