"""The steps of the GPU day: each computes on a card what is known from the CPU, compares, and returns its figures.

A step takes a `Place` and returns rows of plain values. A figure that misses its bound goes into the place's `wrong`,
and the step goes on; where it cannot run it raises `Missing` with what to install. In a rehearsal the CPU stands in for
the card.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.backends import CPU, EAGER, Source, backends
from bench.latency import clip_options, graph_inputs, measure_clips
from bench.measuring import interleaved_benchmark, medians, ratio
from bench.msda import Candidate, Inputs, core_library, cpu_kernels, cuda_candidates
from bench.parity import run_parity
from ovavss.errors import UserError
from ovavss.models.ov_avss.presets import CLIP_IMAGE_ENCODER, GRAPHS, USSLM_GRAPH
from ovavss.msda.libraries import session_options
from ovavss.msda.ms_deform_attn import ms_deform_attn
from ovavss.runtime.engines import MANIFEST, Format, Precision, checked_artifact, open_engines
from ovavss.runtime.runner import Runner

Row = dict[str, Any]
Step = Callable[["Place"], list[Row]]
# The kernels' templates: (channels, points) with 32 channels and 4 to 8 points are unrolled, all others share one.
TEMPLATES = (*((32, points) for points in range(4, 9)), (16, 3), (64, 4))
LARGEST = {"float32": 1e-5, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Error of the kernels relative to the largest output: of half types, the rounding of the output itself."""
PARITY = {"fp32": 99.9, "fp16": 99.0, "bf16": 97.0}  # percent of the pixels whose label is the reference's


class Missing(Exception):
    """One sentence: what this machine lacks for a step."""


@dataclass(frozen=True)
class Place:
    """Where the steps run.

    Attributes:
        engines: The tiny preset's ONNX graphs, as `ovavss export` wrote them.
        out: A folder for what a step builds.
        device: "cuda", or "cpu" in a rehearsal.
        wrong: A sentence for each figure that missed its bound.
    """

    engines: Path
    out: Path
    device: str = "cuda"
    wrong: list[str] = field(default_factory=list)

    @property
    def on_card(self) -> bool:
        """Whether this is no rehearsal."""
        return self.device == "cuda"

    def check(self, condition: bool, sentence: str) -> None:
        """Notes a figure that misses its bound."""
        if not condition:
            self.wrong.append(sentence)


def kernels(place: Place) -> list[Row]:
    """Every type and template of the attention kernels against float64; the stock formula's error beside it."""
    rows: list[Row] = []
    for channels, points in TEMPLATES:
        inputs = Inputs.random(2, 64, 96, 2.0, channels, points)
        for name, candidate in _attention(place, inputs).items():
            scale = candidate.exact.abs().max().item()
            rows.append({"what": f"{name}, D{channels} P{points}", "error": candidate.error() / scale})
    for row in rows:
        limit = next(LARGEST[name] for name in ("bfloat16", "float16", "float32") if name in row["what"] + " float32")
        row["limit"] = limit
        if not row["what"].startswith("eager"):
            place.check(row["error"] <= limit, f"{row['what']}: error {row['error']:.2e} is over {limit:.2e}")
    return rows


def _attention(place: Place, inputs: Inputs) -> dict[str, Candidate]:
    if place.on_card:
        return cuda_candidates(inputs, core_library())
    return cpu_kernels(inputs, torch.get_num_threads(), core_library())


def speed(place: Place) -> list[Row]:
    """The kernels' time against GridSample in PyTorch, torch.compile and what else is installed; bytes a second as a
    share of what copying reaches."""
    inputs = Inputs.random(5, 384, 640, 2.0) if place.on_card else Inputs.random(1, 96, 160, 2.0)
    device = torch.device(place.device)
    value, locations, weights = (t.to(device) for t in (inputs.value, inputs.locations, inputs.weights))
    formula = partial(ms_deform_attn, value, inputs.shapes, locations, weights)
    exact = inputs.exact("plain", inputs.value, inputs.weights, inputs.offsets)
    calls = {"GridSample in PyTorch": Candidate(formula, exact)}
    calls |= {name: each for name, each in _attention(place, inputs).items() if name.startswith("kernel")}
    rows: list[Row] = []
    others = {"torch.compile": _compiled, "deformops": _deformops, "Hugging Face kernel": _hub_kernel}
    for name, other in others.items():
        try:
            calls[name] = Candidate(other(inputs, value, locations, weights), exact)
        except Missing as error:
            rows.append({"what": name, "missing": str(error)})
    with torch.inference_mode():
        errors = {name: candidate.error() for name, candidate in calls.items()}
        turns = interleaved_benchmark({name: c.run for name, c in calls.items()}, 9 if place.on_card else 2)
    seconds = {name: medians(turn) for name, turn in turns.items()}
    copied = _copy_rate(device)
    moved = sum(t.numel() * t.element_size() for t in (inputs.value, inputs.value, inputs.locations, inputs.weights))
    for name, found in seconds.items():
        times = {"ms": 1e3 * float(np.median(found)), "x GridSample": ratio(seconds["GridSample in PyTorch"], found)}
        share = moved / float(np.median(found)) / copied
        rows.append({"what": name, **times, "share of copy rate": share, "error": errors[name]})
    worst = max(errors, key=lambda name: errors[name])
    place.check(errors[worst] < 0.1, f"{worst} differs by {errors[worst]:.2e} from float64")
    if place.on_card:
        slow = [r["what"] for r in rows if r["what"] in ("kernel, plain, float32",) and r["x GridSample"] < 1]
        place.check(not slow, f"slower than GridSample: {', '.join(slow)}")
    return rows


def _compiled(inputs: Inputs, value: Tensor, locations: Tensor, weights: Tensor) -> Callable[[], Tensor]:
    call = torch.compile(lambda: ms_deform_attn(value, inputs.shapes, locations, weights))
    try:
        call()
    except Exception as error:  # whatever its compilers raise
        raise Missing(f"torch.compile does not work here ({type(error).__name__})") from None
    return call


def _deformops(inputs: Inputs, value: Tensor, locations: Tensor, weights: Tensor) -> Callable[[], Tensor]:
    try:
        from deformops.registry import msda
    except ImportError:
        raise Missing("pip install deformops (Python 3.12 and newer)") from None
    shapes, starts = _shapes_and_starts(inputs, value)
    flat = weights.flatten(-2)
    return lambda: msda(value, shapes, starts, locations, flat).reshape(value.flatten(2).shape)


def _hub_kernel(inputs: Inputs, value: Tensor, locations: Tensor, weights: Tensor) -> Callable[[], Tensor]:
    if not value.is_cuda:
        raise Missing("it runs on a GPU only")
    try:
        from kernels import get_kernel

        kernel = get_kernel("kernels-community/deformable-detr")
    except Exception as error:  # whatever the package raises where no hub answers
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise Missing(f"pip install kernels, on a machine that reaches its hub ({reason})") from None
    shapes, starts = _shapes_and_starts(inputs, value)
    return lambda: kernel.ms_deform_attn_forward(value, shapes, starts, locations, weights, 64)


def _shapes_and_starts(inputs: Inputs, value: Tensor) -> tuple[Tensor, Tensor]:
    shapes = inputs.level_shapes().to(value.device)
    sizes = shapes.prod(1)
    return shapes, sizes.cumsum(0) - sizes


def _copy_rate(device: torch.device) -> float:
    """Bytes read and written a second by a copy of memory that no cache holds."""
    source = torch.empty((1 << 30) if device.type == "cuda" else (1 << 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    turns = interleaved_benchmark({"copy": lambda: target.copy_(source)}, 5)["copy"]
    return 2 * source.numel() / float(np.median(medians(turns)))


def onnxruntime_graphs(place: Place) -> list[Row]:
    """ONNX Runtime with our operator: values against PyTorch, and where each node really runs."""
    source, name = Source(place.engines), "onnx-cuda+op" if place.on_card else "onnx+op"
    found = backends(source)
    if found[name].missing:
        raise Missing(found[name].missing)
    rows = _differences(place, source, found[EAGER].open(), found[name].open(), Precision.FP32)
    provider = "CUDAExecutionProvider" if place.on_card else "CPUExecutionProvider"
    path = checked_artifact(place.engines, source.manifest(), USSLM_GRAPH, Format.ONNX, Precision.FP32)
    places = dict(_node_providers(path, provider, graph_inputs(source.preset(), USSLM_GRAPH), place.out))
    operators = {node: where for node, where in places.items() if "OvavssMSDeformAttn" in node}
    place.check(bool(operators), "the localizer ran without our operator")
    place.check(set(operators.values()) == {provider}, f"our operator ran on {', '.join(set(operators.values()))}")
    inside = sum(where == provider for where in places.values())
    return [*rows, {"what": "nodes of the localizer on the provider", "nodes": inside, "of": len(places)}]


def _node_providers(path: Path, provider: str, inputs: dict[str, Tensor], out: Path) -> Iterator[tuple[str, str]]:
    """Each node that ran, as its operator's and its own name, and the provider that ran it."""
    import onnxruntime

    options = session_options([provider])
    options.enable_profiling, options.profile_file_prefix = True, str(out / "profile")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=list(dict.fromkeys([provider, CPU[0]])))
    session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    for event in json.loads(Path(session.end_profiling()).read_text()):
        about = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in about:
            yield f"{about.get('op_name')} {event['name']}", about["provider"]


def _differences(
    place: Place, source: Source, reference: dict[str, Runner], runners: dict[str, Runner], precision: Precision
) -> list[Row]:
    """How far each graph is from PyTorch on the CPU, relative to the largest value of an output."""
    rows: list[Row] = []
    limit = {Precision.FP32: 2e-3}.get(precision, 0.15)  # TF32 and half products, through whole networks
    for graph, runner in runners.items():
        inputs = graph_inputs(source.preset(), graph)
        expected, found = reference[graph](**inputs), runner(**inputs)
        worst = max(
            float((found[name].cpu().float() - want.float()).abs().max() / want.float().abs().max().clamp(min=1e-6))
            for name, want in expected.items()
        )
        rows.append({"what": f"{graph}, {precision}", "difference": worst, "limit": limit})
        place.check(worst <= limit, f"{graph} in {precision} differs by {worst:.2e} from PyTorch")
    return rows


def tensorrt_rtx(place: Place) -> list[Row]:
    """TensorRT-RTX engines: built, run, compared, with and without CUDA graphs. A rehearsal builds one graph."""
    return _tensorrt(place, Format.TENSORRT_RTX)


def tensorrt(place: Place) -> list[Row]:
    """TensorRT engines, with our plugin where its library is built, else with the gather body."""
    if not place.on_card:
        raise Missing("TensorRT builds engines on a GPU only")
    return _tensorrt(place, Format.TENSORRT)


def _tensorrt(place: Place, form: Format) -> list[Row]:
    from ovavss.checkpoints.weights import WeightsSource, load_models
    from ovavss.export.build import Builder
    from ovavss.export.build_spec import BuildSpec, PlanOptions
    from ovavss.msda.libraries import find_library
    from ovavss.runtime import tensorrt_library

    try:
        tensorrt_library.tensorrt_rtx() if form is Format.TENSORRT_RTX else tensorrt_library.tensorrt()
    except UserError as error:
        raise Missing(str(error)) from None
    source, plugin = Source(place.engines), find_library("libovavss_msdeform_attn_trt.so")
    precisions = (Precision.FP32, Precision.FP16) if place.on_card else (Precision.FP32,)
    capability = ".".join(map(str, torch.cuda.get_device_capability())) if place.on_card else "8.9"
    plan = PlanOptions((capability,), plugin if form is Format.TENSORRT else None)
    folder = place.out / form.value
    folder.mkdir(parents=True, exist_ok=True)
    loaded = load_models(source.preset(), WeightsSource())
    graphs = GRAPHS if place.on_card else (CLIP_IMAGE_ENCODER,)
    builder = Builder(loaded, folder, BuildSpec((form,), precisions, plan=plan), 0)
    builder.specs = {graph: builder.specs[graph] for graph in graphs}
    builder.run("")
    place.check(not builder.refused, "; ".join(builder.refused.values()))
    if not place.on_card:
        return [{"what": f"{graph}, built", "files": len(list(folder.glob(f"{graph}*plan")))} for graph in graphs]
    rows: list[Row] = []
    reference = backends(source)[EAGER].open()
    for precision in precisions:
        _, runners = open_engines(folder, form, precision)
        rows += _differences(place, source, reference, runners, precision)
        for graph, runner in runners.items():
            inputs = graph_inputs(source.preset(), graph)
            recorded = runner(**inputs)
            runner.cuda_graphs = False  # type: ignore[attr-defined]
            runner.recorded.clear()  # type: ignore[attr-defined]
            same = all(torch.equal(recorded[name], tensor) for name, tensor in runner(**inputs).items())
            place.check(same, f"{graph} in {precision}: recorded as a CUDA graph it computes something else")
    return rows


def whole_clip(place: Place) -> list[Row]:
    """The clip end to end in every runtime that is here: time, label maps and mIoU against eager PyTorch."""
    from rich.console import Console

    rows: list[Row] = []
    built = [place.out / form.value for form in (Format.TENSORRT_RTX, Format.TENSORRT) if place.on_card]
    for folder in (place.engines, *(each for each in built if (each / MANIFEST).is_file())):
        source, console = Source(folder), Console(stderr=True)
        wanted = None if place.on_card else "torch,onnx+op"
        parity = run_parity(source, console, 40 if place.on_card else 2, runners=wanted)
        present = {row["name"]: row for row in parity["rows"] if not row["missing"]}
        every, turns = backends(source), 5 if place.on_card else 1
        opened = {name: every[name] for name in present}
        for row in measure_clips(source, opened, clip_options(False), turns, lambda: None):
            name, found = row["runner"], present[row["runner"]]
            share = found.get("share", {}).get("mean")
            rows.append({"what": name, "ms": row["p50_ms"], "x eager": row["speed_up"], "% same": found["agreement"],
                         "% of mIoU": share})  # fmt: skip
            bound = next((PARITY[half] for half in ("fp16", "bf16") if half in name), PARITY["fp32"])
            place.check(found["agreement"] >= bound, f"{name}: {found['agreement']:.2f} % of the pixels agree")
    return rows


def compiled_clip(place: Place) -> list[Row]:
    """The clip with torch.compile beside eager PyTorch; most of the time goes into compiling."""
    if not place.on_card:
        raise Missing("torch.compile of the whole model takes minutes on a CPU; bench/latency.py --compile measures it")
    source = Source(place.engines)
    every = backends(source, compiled=True)
    opened = {name: every[name] for name in (EAGER, "torch_cuda", "torch_compile") if not every[name].missing}
    rows = measure_clips(source, opened, clip_options(False), 3, lambda: None)
    return [{"what": row["runner"], "ms": row["p50_ms"], "x eager": row["speed_up"]} for row in rows]


def training(place: Place) -> list[Row]:
    """One step of training with AMP against the same step in float32 on the CPU."""
    from dataclasses import replace

    from ovavss.checkpoints.weights import build_models
    from ovavss.models.ov_avss.presets import PRESETS
    from ovavss.training.clips import Batch
    from ovavss.training.matcher import ClipTarget
    from ovavss.training.trainer import Recipe, Trainer

    preset, found = PRESETS["tiny"], []
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.standard_normal((1, preset.snippets, 3, 96, 96), np.float32))
    audio = torch.from_numpy(random.standard_normal((1, preset.snippets, preset.audio_dim), np.float32))
    masks = torch.zeros(2, preset.snippets, 96, 96, dtype=torch.bool)
    masks[0, :, 10:50, 10:50], masks[1, :, 60:90, 40:80] = True, True
    for device, amp in (("cpu", False), (place.device, place.on_card)):
        torch.manual_seed(0)
        trainer = Trainer(build_models(preset, 0).usslm, replace(Recipe(), amp=amp), torch.device(device))
        draws = torch.Generator().manual_seed(1)
        trainer.rand = partial(_draw, draws)
        found.append(trainer.step(Batch(images, audio, [ClipTarget(masks)])))
    one, two = found
    rows: list[Row] = [
        {"what": name, "float32 on the CPU": one[name], "here": two[name]} for name in one if name != "lr"
    ]
    difference = abs(two["loss"] / one["loss"] - 1)
    place.check(difference < 0.02, f"the loss differs by {100 * difference:.1f} % from the CPU's")
    place.check(bool(np.isfinite(two["gradient"])), "the gradient's norm is not finite")
    return rows


def _draw(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=generator)


def triton(place: Place) -> list[Row]:
    """The ensemble on a real server, which takes GPU tensors where there is a card, against the pipeline here."""
    try:
        from bench.serving import serving
        from ovavss.serving.client import RemotePipeline
    except ImportError as error:
        raise Missing(f"Triton's client is not installed: pip install 'ovavss[serve]' ({error})") from None
    from ovavss.evaluation.evaluate import world_clips
    from ovavss.pipeline.pipeline import Pipeline

    source = Source(place.engines)
    names, clip = source.names(), next(iter(world_clips(2000, 1)))
    pipeline = Pipeline(source.preset(), backends(source)[EAGER].open())
    expected = pipeline(clip.frames, clip.waveform, pipeline.embed_names(names)).label_map
    try:
        with serving(place.engines, place.out / "triton") as (url, _), RemotePipeline(url) as remote:
            found = remote(clip.frames, clip.waveform, remote.embed_names(names)).label_map
    except UserError as error:
        if "nvidia-pytriton" in str(error):
            raise Missing(str(error)) from None
        raise
    same = 100 * float((found == expected).float().mean())
    place.check(same >= PARITY["fp32"], f"the server's label map agrees on {same:.2f} % of the pixels")
    return [{"what": "label map of a clip", "% same": same}]


STEPS: dict[str, tuple[Step, int]] = {
    "kernels": (kernels, 60),
    "speed": (speed, 90),
    "onnxruntime": (onnxruntime_graphs, 60),
    "tensorrt_rtx": (tensorrt_rtx, 120),
    "tensorrt": (tensorrt, 120),
    "whole_clip": (whole_clip, 120),
    "training": (training, 60),
    "triton": (triton, 60),
    "compiled_clip": (compiled_clip, 120),
}
"""In order of worth, with the seconds that each may take."""
