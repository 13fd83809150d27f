"""What runners promise: finite outputs, the device that was asked for, and calls from several threads."""

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from ovavss.errors import UserError
from ovavss.models.graphs import GraphSpec, TensorSpec
from ovavss.runtime import onnxruntime_runner
from ovavss.runtime.onnxruntime_runner import OnnxRuntimeRunner
from ovavss.runtime.tensorrt_runner import TensorRTRunner
from ovavss.runtime.torch_runner import TorchRunner
from ovavss.runtime.torchscript_runner import TorchScriptRunner

SPEC = GraphSpec(
    "doubled", (TensorSpec("given", torch.float32, ("rows", 4)),), (TensorSpec("twice", torch.float32, ("rows", 4)),)
)


class Doubled(nn.Module):
    def forward(self, given: Tensor) -> Tensor:
        return given * 2


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4]) for name in ("given", "twice")]
    graph = helper.make_graph([helper.make_node("Add", ["given", "given"], ["twice"])], "g", shapes[:1], shapes[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "doubled.onnx"
    )
    return tmp_path / "doubled.onnx"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_outputs_that_are_not_finite_are_refused(model: Path, value: float) -> None:
    given = torch.ones(2, 4)
    given[1, 2] = value
    for runner in (TorchRunner(SPEC, Doubled()), OnnxRuntimeRunner(SPEC, model, ["CPUExecutionProvider"])):
        with pytest.raises(UserError, match="the graph 'doubled' computed NaN or infinite values in 'twice'"):
            runner(given=given)


def test_a_sum_that_overflows_is_no_fault(model: Path) -> None:
    given = torch.full((50, 4), 1e38)
    assert torch.equal(OnnxRuntimeRunner(SPEC, model, ["CPUExecutionProvider"])(given=given)["twice"], given * 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, so nothing falls back")
class TestFallBack:
    """ONNX Runtime takes the CPU where its GPU provider cannot start."""

    @pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "NvTensorRTRTXExecutionProvider"])
    def test_it_is_an_error_where_the_gpu_was_asked_for(self, model: Path, provider: str) -> None:
        with pytest.raises(
            UserError, match=rf"cannot use {provider} here.* and took CPUExecutionProvider; pip install"
        ):
            OnnxRuntimeRunner(SPEC, model, [provider, "CPUExecutionProvider"])

    def test_it_is_a_warning_where_it_was_not(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime is built for CPUs alone")
        monkeypatch.setattr(
            onnxruntime_runner, "_usable_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        )
        with pytest.warns(RuntimeWarning, match="cannot use CUDAExecutionProvider here"):
            runner = OnnxRuntimeRunner(SPEC, model)
        assert (runner.device, runner.provider) == ("cpu", "CPUExecutionProvider")
        assert torch.equal(runner(given=torch.ones(1, 4))["twice"], torch.full((1, 4), 2.0))


def test_a_file_that_is_no_torchscript(model: Path) -> None:
    with pytest.raises(UserError, match=r"doubled\.onnx is not a TorchScript file .*; build it again"):
        TorchScriptRunner(SPEC, model)


class FakeContext:
    """An execution context as TensorRT has it: one set of shapes and addresses, which a second caller overwrites."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        count = self.shape[0] * self.shape[1]
        given, twice = ((ctypes.c_float * count).from_address(self.addresses[name]) for name in ("given", "twice"))
        for index in range(count):
            twice[index] = 2 * given[index]
        time.sleep(0.002)
        return True


class FakeStream:
    cuda_stream = 0

    def wait_stream(self, other: "FakeStream") -> None: ...

    def synchronize(self) -> None: ...


def test_threads_take_turns_in_a_tensorrt_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    runner: Any = TensorRTRunner.__new__(TensorRTRunner)
    runner.__dict__.update(
        spec=SPEC, device="cpu", context=FakeContext(), stream=FakeStream(), cuda_graphs=False, recorded={},
        _lock=Lock(),
    )  # fmt: skip
    inputs = [torch.full((1 + number % 3, 4), float(number)) for number in range(24)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda given: runner(given=given)["twice"], inputs))
    for given, twice in zip(inputs, found):
        assert torch.equal(twice, given * 2)
