"""Latency of each graph and of the whole clip in every runtime that is present, and how cost grows with size.

    python bench/latency.py --engines DIR [--runners onnx,onnx+op] [--rounds 9] [--json FILE]

Runners take turns round by round; `x eager` is how many times faster than eager PyTorch, from rounds side by side. Peak
memory is measured in a process of its own for each figure. T is five seconds in every graph, so longer video is more
clips. Where there is a GPU, times are CUDA events.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from bench.backends import EAGER, BackendConfig, Source, backends, chosen, fastest
from bench.measuring import (
    StepClock,
    Table,
    header,
    interleaved_benchmark,
    medians,
    peak_memory,
    percentiles,
    power_law,
    ratio,
)
from bench.options import CompileOption, EnginesOption, JsonOption, RoundsOption, RunnersOption, WeightsOption, run
from ovavss.datasets.sounding_shapes.rendering import render
from ovavss.datasets.sounding_shapes.scenes import sample_scene
from ovavss.files import write_json
from ovavss.models.ov_avss import open_vocabulary
from ovavss.models.ov_avss.graphs import graph_modules, graph_specs
from ovavss.models.ov_avss.mask_crop import crop_regions, find_regions
from ovavss.models.ov_avss.presets import (
    AUDIO_ENCODER,
    CLIP_IMAGE_ENCODER,
    CLIP_TEXT_ENCODER,
    GRAPHS,
    USSLM_GRAPH,
    Preset,
)
from ovavss.pipeline.pipeline import Pipeline
from ovavss.pipeline.steps import Options
from ovavss.runtime.runner import Runner
from ovavss.runtime.torch_runner import TorchRunner

Run = Callable[[], object]
CROPS, SENTENCES = 8, 14
MIN_CLIP_TURN = 0.4  # seconds of a turn of clips: two thread pools take a few clips to keep out of each other's way
NETWORK, CLIPS, FRAMES = "network pixels (usslm, eager)", "clips (usslm)", "frame pixels (usslm)"
CLIP_CROPS, TEXTS = "crops (clip_image_encoder)", "names (clip_text_encoder)"
CUT, QUERIES, CLASSIFY = "crops (crop_regions)", "queries (find_regions)", "names (classify)"
# The sweeps: what grows, and its values for the tiny preset and for the large ones.
SWEEPS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    CLIPS: ((1, 2, 4), (1, 2)),
    NETWORK: ((96, 128, 192, 256), (192, 256, 320)),
    FRAMES: ((96, 192, 384, 768), (180, 360, 720)),
    CLIP_CROPS: ((1, 4, 16, 64), (1, 4, 16)),
    CUT: ((4, 16, 50), (4, 16, 64)),
    QUERIES: ((2, 5, 10), (10, 30, 100)),
    TEXTS: ((1, 4, 16), (1, 2, 4)),
    CLASSIFY: ((10, 100, 1000, 10_000), (10, 100, 1000, 10_000)),
}


def frame_size(preset: Preset) -> tuple[int, int]:
    """(H, W) of the frames that are measured: the preset's own short side, square for tiny and 16:9 for the others."""
    side = preset.short_side
    width, height = preset.frame_aspect
    return (side, side * width // height)


def graph_inputs(
    preset: Preset, graph: str, clips: int = 1, size: tuple[int, int] | None = None, count: int | None = None
) -> dict[str, Tensor]:
    """Inputs of one graph: `clips` clips with frames of (H, W) `size`, or `count` crops or sentences."""
    random, snippets = torch.Generator().manual_seed(0), preset.snippets
    if graph == AUDIO_ENCODER:
        return {"waveform": 0.1 * torch.randn(clips, snippets * 16_000, generator=random)}
    if graph == USSLM_GRAPH:
        shape = (clips, snippets, *(size or frame_size(preset)), 3)
        frames = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
        return {"frames": frames, "audio": torch.randn(clips, snippets, preset.audio_dim, generator=random)}
    if graph == CLIP_IMAGE_ENCODER:
        side = preset.clip.image_size
        return {"crops": torch.randn(count or CROPS, 3, side, side, generator=random)}
    return {"tokens": torch.randint(1, 400, (count or SENTENCES, preset.clip.context_length), generator=random)}


def end_to_end(
    source: Source,
    runners: Mapping[str, Runner],
    options: Options,
    record: Callable[[dict[str, float]], object] | None = None,
) -> Run:
    """One rendered clip through a pipeline; `record` is given the seconds of its steps."""
    preset, clock = source.preset(), StepClock()
    clip = render(sample_scene(2000, 0), frame_size(preset))
    pipeline = Pipeline(preset, dict(runners), options, **({"step": clock} if record else {}))
    vocabulary = pipeline.embed_names(source.names())

    def call() -> None:
        pipeline(clip.frames, clip.waveform, vocabulary)
        if record:
            record(clock.take())

    return call


def clip_options(random: bool) -> Options:
    """Published; with random weights, under which all queries are one region, they share a crop."""
    return Options(merge_iou=0.95) if random else Options()


def measure_graphs(
    preset: Preset, present: Mapping[str, BackendConfig], rounds: int, progress: Run
) -> list[dict[str, Any]]:
    """A row for each graph and backend."""
    opened = {name: backend.open() for name, backend in present.items()}
    rows: list[dict[str, Any]] = []
    for graph in GRAPHS:
        inputs = graph_inputs(preset, graph)
        runs = {name: partial(runners[graph], **inputs) for name, runners in opened.items()}
        seconds = interleaved_benchmark(runs, rounds, progress=progress)
        plain = medians(seconds[EAGER])
        rows += [
            {"graph": graph, "runner": name, "speed_up": ratio(plain, medians(turns)), **percentiles(turns)}
            for name, turns in seconds.items()
        ]
    return rows


def measure_clips(
    source: Source, present: Mapping[str, BackendConfig], options: Options, rounds: int, progress: Run
) -> list[dict[str, Any]]:
    """A row for each backend's whole clip, with the milliseconds of each step: the median over all calls."""
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in present}
    runs = {name: end_to_end(source, c.open(), options, steps[name].append) for name, c in present.items()}
    seconds = interleaved_benchmark(runs, rounds, progress=progress, min_turn=MIN_CLIP_TURN)
    rows = []
    for name, turns in seconds.items():
        called = steps[name][1:]  # without the warm-up
        split = {step: 1e3 * float(np.median([one[step] for one in called])) for step in called[0]}
        found = percentiles(turns)
        speed = {"speed_up": ratio(medians(seconds[EAGER]), medians(turns)), "clips_per_s": 1e3 / found["mean_ms"]}
        rows.append({"graph": "whole clip", "runner": name, **speed, **found, "steps_ms": split})
    return rows


def prepare_graph(source: Source, name: str, graph: str) -> Run:
    """For `peak_memory`: one graph of one backend."""
    return partial(backends(source)[name].open([graph])[graph], **graph_inputs(source.preset(), graph))


def prepare_clip(source: Source, name: str, options: Options) -> Run:
    """For `peak_memory`: the whole clip."""
    return end_to_end(source, backends(source)[name].open(), options)


def prepare_sweep(source: Source, name: str, sweep: str, value: int) -> Run:
    """One point of a sweep, for `peak_memory` and for the clock."""
    preset = source.preset()
    sizes: dict[str, tuple[str, dict[str, Any]]] = {
        CLIPS: (USSLM_GRAPH, {"clips": value}),
        NETWORK: (USSLM_GRAPH, {"size": (value, value)}),
        FRAMES: (USSLM_GRAPH, {"size": (value, value)}),
        CLIP_CROPS: (CLIP_IMAGE_ENCODER, {"count": value}),
        TEXTS: (CLIP_TEXT_ENCODER, {"count": value * SENTENCES}),
    }
    if sweep not in sizes:
        return _python_step(preset, sweep, value)
    graph, size = sizes[sweep]
    if sweep == NETWORK:
        modules = graph_modules(source.models(), (value, value))
        runner: Runner = TorchRunner(graph_specs(preset, (value, value))[graph], modules[graph])
    else:
        runner = backends(source)[name].open([graph])[graph]
    return partial(runner, **graph_inputs(preset, graph, **size))


def _python_step(preset: Preset, sweep: str, value: int) -> Run:
    """The steps between the graphs, on smooth random masks of which most are valid."""
    height, width = (-(-side // 32) * 32 for side in frame_size(preset))
    random, queries = torch.Generator().manual_seed(0), preset.mask_decoder.num_queries
    coarse = torch.randn(queries, preset.snippets, 6, 6, generator=random)
    logits = torch.nn.functional.interpolate(coarse, size=(height // 4, width // 4), mode="bilinear")
    if sweep == QUERIES:
        return lambda: find_regions(logits, torch.arange(value))
    if sweep == CUT:
        frames = torch.randint(0, 256, (preset.snippets, height, width, 3), generator=random, dtype=torch.uint8)
        some = find_regions(logits).select(slice(0, value))
        return lambda: crop_regions(logits, frames, frame_size(preset), some, preset.clip.image_size)
    texts, embeddings = torch.randn(value, preset.clip.embed_dim), torch.randn(queries, preset.clip.embed_dim)

    def classify() -> object:
        scores = open_vocabulary.similarity(embeddings, texts)
        return open_vocabulary.rank(*open_vocabulary.class_probabilities(scores, torch.arange(queries)))

    return classify


def measure_sweep(
    source: Source, name: str, sweep: str, values: Iterable[int], rounds: int, memory: bool, progress: Run
) -> dict[str, Any]:
    """Milliseconds and, in processes of their own, MiB above what is loaded at each size, with the fitted exponents."""
    runs = {str(value): prepare_sweep(source, name, sweep, value) for value in values}
    seconds = interleaved_benchmark(runs, rounds)
    points = []
    for value in values:
        point: dict[str, float] = {"size": value * value if "pixels" in sweep else value}
        point["p50_ms"] = percentiles(seconds[str(value)])["p50_ms"]
        if memory:
            found = peak_memory(prepare_sweep, source, name, sweep, value)
            point |= {"peak_mib": found["peak"], "growth_mib": found["peak"] - found["loaded"]}
        points.append(point)
        progress()
    sizes = [point["size"] for point in points]
    exponent, fit = power_law(sizes, [point["p50_ms"] for point in points])
    made: dict[str, Any] = {"sweep": sweep, "points": points, "exponent": exponent, "r2": fit}
    if memory:
        exponent, fit = power_law(sizes, [max(point["growth_mib"], 0.1) for point in points])
        made |= {"memory_exponent": exponent, "memory_r2": fit}
    return made


def run_latency(
    source: Source, console: Console, rounds: int, runners: str | None, sweeps: bool, memory: bool, compiled: bool
) -> dict[str, Any]:
    """Measure all; what the JSON file holds."""
    models, preset = source.models(), source.preset()
    every = chosen(backends(source, models, compiled), runners)
    present = {name: backend for name, backend in every.items() if not backend.missing}
    options, swept, large = clip_options(source.random()), fastest(present), preset.name != "tiny"
    values = {name: sizes[large] for name, sizes in SWEEPS.items()} if sweeps else {}
    # A process for each figure: those of a large preset take half a minute each on a CPU.
    weighed = {EAGER, swept} if large and not torch.cuda.is_available() else set(present)
    work = len(present) * rounds * (len(GRAPHS) + 1) + sum(map(len, values.values()))
    work += (len(weighed) + len(GRAPHS)) * memory
    with Progress(console=console) as bar:
        progress = partial(bar.advance, bar.add_task("measuring", total=work))
        clips = measure_clips(source, present, options, rounds, progress)
        graphs = measure_graphs(preset, present, rounds, progress)
        for row in [*clips, *graphs] if memory else []:
            if row in clips and row["runner"] in weighed:
                row["memory_mib"] = peak_memory(prepare_clip, source, row["runner"], options)
                progress()
            elif row in graphs and row["runner"] == swept:
                row["memory_mib"] = peak_memory(prepare_graph, source, swept, row["graph"])
                progress()
        grown = [measure_sweep(source, swept, name, v, rounds, memory, progress) for name, v in values.items()]
    missing = {name: backend.missing for name, backend in every.items() if backend.missing}
    about = {"preset": preset.name, "frames": frame_size(preset), "crops": CROPS, "sentences": SENTENCES}
    about |= {"random_weights": source.random(), "options": {"merge_iou": options.merge_iou}, "swept": swept}
    about |= {"names": len(source.names())}
    return header() | about | {"clips": clips, "graphs": graphs, "sweeps": grown, "missing": missing}


def latency_table(found: Mapping[str, Any]) -> Table:
    """Whole clips, then graphs."""
    columns = ["graph", "runner", "p50 ms", "p90 ms", "p99 ms", "clips/s", "x eager", "loaded MiB", "peak MiB"]
    keys = ("graph", "runner", "p50_ms", "p90_ms", "p99_ms", "clips_per_s", "speed_up")
    rows = [
        [*(row.get(key) for key in keys), *(row.get("memory_mib", {}).get(key) for key in ("loaded", "peak"))]
        for row in [*found["clips"], *found["graphs"]]
    ]
    return Table(f"{found['preset']}, frames {found['frames']}, {found['machine']['threads']} threads", columns, rows)


def growth_table(found: Mapping[str, Any]) -> Table:
    """The points of each sweep, with the exponents beside the last."""
    columns = ["what grows", "size", "p50 ms", "peak MiB", "MiB above loaded", "exponent", "r2",
               "memory exponent", "memory r2"]  # fmt: skip
    point_keys, fit_keys = ("size", "p50_ms", "peak_mib", "growth_mib"), ("exponent", "r2", "memory_exponent",
                                                                         "memory_r2")  # fmt: skip
    rows = [
        [sweep["sweep"], *(point.get(key) for key in point_keys),
         *(sweep.get(key) if point is sweep["points"][-1] else None for key in fit_keys)]
        for sweep in found["sweeps"]
        for point in sweep["points"]
    ]  # fmt: skip
    return Table(f"growth with size ({found['swept']}): cost = a * size^exponent", columns, rows)


def missing_table(found: Mapping[str, Any]) -> Table:
    """What was not measured, and why."""
    return Table("not measured here", ["runner", "why"], [[name, why] for name, why in found["missing"].items()])


def main(
    engines: EnginesOption,
    weights: WeightsOption = None,
    runners: RunnersOption = None,
    rounds: RoundsOption = 9,
    sweeps: Annotated[bool, typer.Option(help="Growth with size.")] = True,
    memory: Annotated[bool, typer.Option(help="Peak memory, each figure in a process of its own.")] = True,
    compile: CompileOption = False,
    json: JsonOption = None,
) -> None:
    """Measure latency, memory and their growth with size."""
    source = Source.of(engines, weights)
    found = run_latency(source, Console(stderr=True), rounds, runners, sweeps, memory, compile)
    for table in (latency_table(found), growth_table(found), missing_table(found)):
        table.print(150)
    if json is not None:
        write_json(json, found)


if __name__ == "__main__":
    run(main)
