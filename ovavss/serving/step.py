"""What the ensemble's Python steps share. Importable only inside Triton's Python backend.

Tensors cross the backend's border by DLPack only: through numpy 2 the backend of older servers returns empty arrays,
and its strings arrive broken, which is why names travel as bytes.
"""

import json
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import triton_python_backend_utils as pb_utils
from torch import Tensor

from ovavss.errors import UserError
from ovavss.models.ov_avss.presets import PRESETS
from ovavss.runtime.runner import not_finite
from ovavss.serving.graph_step import dlpack, error_response, lower_priority, settings


class Step(ABC):
    """A step that answers one request at a time. A step implements `run`, and `start` if it has something to prepare.

    Every request leaves a line in the server's log: its id, the step, what the step notes, milliseconds. A tensor with
    NaN or infinite values fails the request: a graph in a back end of Triton's own is checked by nobody else.
    """

    inputs_are_computed = True
    """Whether graphs computed what comes in. What a client sends is the client's fault, and the step checks it."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Called by Triton once."""
        self.config: dict[str, Any] = json.loads(args["model_config"])
        lower_priority(self.config)
        self.preset = PRESETS[settings(self.config)["preset"]]
        counter = pb_utils.MetricFamily.COUNTER
        self.refusals = pb_utils.MetricFamily("ovavss_refused", "Requests that a step refused", counter)
        self.refused = self.refusals.Metric(labels={"step": self.config["name"]})
        self.start()

    def start(self) -> None:  # noqa: B027  most steps have nothing to prepare
        """Prepare what all requests share."""

    @abstractmethod
    def run(self, request: Any, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        """The outputs by name, and a note for the log. UserError where the client is to blame."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Called by Triton."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        begin, name = time.perf_counter(), self.config["name"]
        try:
            with torch.inference_mode():
                inputs = {t.name(): torch.from_dlpack(t) for t in request.inputs()}
                if self.inputs_are_computed:
                    check_finite(inputs)
                outputs, note = self.run(request, inputs)
                response = pb_utils.InferenceResponse([dlpack(n, tensor) for n, tensor in outputs.items()])
        except UserError as error:
            self.refused.increment(1)
            note, response = f"refused: {error}", error_response(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            pb_utils.Logger.log_error(traceback.format_exc())
            note, response = f"failed: {error}", error_response(f"{name} failed: {error}")
        milliseconds = 1000 * (time.perf_counter() - begin)
        pb_utils.Logger.log_info(f"request '{request.request_id()}' {name}: {note}, {milliseconds:.1f} ms")
        return response


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """RuntimeError where a tensor that a graph computed holds NaN or infinite values."""
    for name, tensor in tensors.items():
        if not_finite(tensor):
            raise RuntimeError(
                f"'{name}' holds NaN or infinite values; the weights of the graph that computed it are damaged, or its "
                "precision is too low: build the engines again, with --precision fp32"
            )
