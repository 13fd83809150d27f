"""A graph behind Triton's Python backend, for servers that have no other. Importable only inside that backend."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils
from torch import Tensor

from ovavss.errors import UserError
from ovavss.models.graphs import read_graph
from ovavss.models.ov_avss.presets import USSLM_GRAPH
from ovavss.runtime.engines import Format, open_artifact

_LOWER_PRIORITY = 5


def settings(config: Mapping[str, Any]) -> dict[str, str]:
    """The `parameters` of a model's configuration."""
    return {name: value["string_value"] for name, value in config["parameters"].items()}


def lower_priority(config: Mapping[str, Any]) -> None:
    """On a CPU, lower the priority of this step's process below the localizer's.

    That step takes longest, so the others must not take its core. They still get what it leaves.
    """
    on_cpu = any(group["kind"] == "KIND_CPU" for group in config["instance_group"])
    if on_cpu and config["name"] != USSLM_GRAPH:
        os.nice(_LOWER_PRIORITY)


def dlpack(name: str, tensor: Tensor) -> Any:
    """A response's tensor."""
    # The back end wants C order in the strides too, which PyTorch leaves open where a side is 1.
    return pb_utils.Tensor.from_dlpack(name, tensor.flatten().view(tensor.shape))


def error_response(message: str, code: Any = None) -> Any:
    """A response that holds nothing but an error."""
    error = pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL if code is None else code)
    return pb_utils.InferenceResponse([], error)


class GraphStep:
    """The artifact `model_file` beside this step, in our own runner.

    Where the configuration batches, the requests that the dynamic batcher brings together run as one, at most
    `batch` rows at a time.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Called by Triton once."""
        config = json.loads(args["model_config"])
        lower_priority(config)
        chosen = settings(config)
        self.spec = read_graph(config["name"], json.loads(chosen["spec"]))
        self.batch = int(chosen["batch"])
        path = Path(args["model_repository"], args["model_version"], chosen["artifact"])
        self.runner = open_artifact(self.spec, path, Format(chosen["format"]))
        # Steps without a metric of their own take the server ten seconds to end.
        counter = pb_utils.MetricFamily.COUNTER
        self.family = pb_utils.MetricFamily(
            "ovavss_graph_runs", "Batches that ran, of one or several requests", counter
        )
        self.runs = self.family.Metric(labels={"graph": self.spec.name})

    def execute(self, requests: list[Any]) -> list[Any]:
        """Called by Triton."""
        begin = time.perf_counter()
        inputs = [{t.name(): torch.from_dlpack(t) for t in request.inputs()} for request in requests]
        try:
            outputs = self._together(inputs) if self.batch else [self.runner(**given) for given in inputs]
        except (ValueError, RuntimeError, UserError) as error:
            message = f"{self.spec.name} failed: {error}"
            pb_utils.Logger.log_error(message)
            return [error_response(message) for _ in requests]
        self.runs.increment(1)
        milliseconds = 1000 * (time.perf_counter() - begin)
        ids = ", ".join(f"'{request.request_id()}'" for request in requests)
        pb_utils.Logger.log_info(f"request {ids} {self.spec.name}: {milliseconds:.1f} ms")
        return [pb_utils.InferenceResponse([dlpack(n, t) for n, t in found.items()]) for found in outputs]

    def _together(self, inputs: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        rows = [len(next(iter(given.values()))) for given in inputs]
        joined = {name: torch.cat([given[name] for given in inputs]) for name in inputs[0]}
        parts = [
            self.runner(**{name: tensor[start : start + self.batch] for name, tensor in joined.items()})
            for start in range(0, sum(rows), self.batch)
        ]
        outputs = {o.name: torch.cat([part[o.name] for part in parts]).split(rows) for o in self.spec.outputs}
        return [{name: tensors[i] for name, tensors in outputs.items()} for i in range(len(inputs))]
