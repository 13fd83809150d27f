"""Latency of each graph and of the whole clip in every runtime that is present, and how cost grows with size.

    python bench/latency.py --engines DIR [--runners onnx,onnx+op] [--rounds 9] [--json FILE]

Candidates take turns round by round; `x` is how many times faster than eager PyTorch, from rounds side by side. Peak
memory is measured in a process of its own for each figure. T is five seconds in every graph, so more seconds are more
clips: the batch is its sweep. Where there is no GPU its rows say so; where there is one, times are CUDA events.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from backends import EAGER, BackendConfig, Source, backends, chosen, fastest  # noqa: E402
from measuring import StepClock, header, interleaved_benchmark, medians, peak_memory, percentiles, power_law, ratio  # noqa: E402

from ovavss.commands.options import command  # noqa: E402
from ovavss.datasets.sounding_shapes.scenes import render, sample_scene  # noqa: E402
from ovavss.errors import UserError  # noqa: E402
from ovavss.files import write_json  # noqa: E402
from ovavss.models.ov_avss import open_vocabulary  # noqa: E402
from ovavss.models.ov_avss.graphs import graph_modules, graph_specs  # noqa: E402
from ovavss.models.ov_avss.mask_crop import crop_regions, find_regions  # noqa: E402
from ovavss.models.ov_avss.presets import (  # noqa: E402
    AUDIO_ENCODER,
    CLIP_IMAGE_ENCODER,
    CLIP_TEXT_ENCODER,
    GRAPHS,
    USSLM_GRAPH,
    Preset,
)
from ovavss.pipeline.pipeline import Options, Pipeline  # noqa: E402
from ovavss.runtime.runner import Runner  # noqa: E402
from ovavss.runtime.torch_runner import TorchRunner  # noqa: E402

Run = Callable[[], object]
Tell = Callable[[], object]
CROPS, SENTENCES = 8, 14
SETTLED = 0.4  # seconds of a turn of clips: two thread pools take a few clips to keep out of each other's way
# The sweeps: what grows, and its values for the tiny preset and for the large ones.
SWEEPS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "clips (usslm)": ((1, 2, 4), (1, 2)),
    "network pixels (usslm, eager)": ((96, 128, 192, 256), (192, 256, 320)),
    "frame pixels (usslm)": ((96, 192, 384, 768), (180, 360, 720)),
    "crops (clip_image_encoder)": ((1, 4, 16, 64), (1, 4, 16)),
    "crops (crop_regions)": ((4, 16, 50), (4, 16, 64)),
    "queries (find_regions)": ((2, 5, 10), (10, 30, 100)),
    "names (clip_text_encoder)": ((1, 4, 16), (1, 2, 4)),
    "names (classify)": ((10, 100, 1000, 10_000), (10, 100, 1000, 10_000)),
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
    height, width = size or frame_size(preset)
    if graph == AUDIO_ENCODER:
        return {"waveform": 0.1 * torch.randn(clips, snippets * 16_000, generator=random)}
    if graph == USSLM_GRAPH:
        shape = (clips, snippets, height, width, 3)
        frames = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
        return {"frames": frames, "audio": torch.randn(clips, snippets, preset.audio_dim, generator=random)}
    if graph == CLIP_IMAGE_ENCODER:
        side = preset.clip.image_size
        return {"crops": torch.randn(count or CROPS, 3, side, side, generator=random)}
    return {"tokens": torch.randint(1, 400, (count or SENTENCES, preset.clip.context_length), generator=random)}


def graph_run(runner: Runner, inputs: Mapping[str, Tensor]) -> Run:
    """One call of a graph."""
    return lambda: runner(**inputs)


def end_to_end(
    source: Source,
    runners: Mapping[str, Runner],
    options: Options,
    tell: Callable[[dict[str, float]], object] | None = None,
) -> Run:
    """One rendered clip through a pipeline; `tell` is given the seconds of its steps."""
    preset = source.preset()
    clip = render(sample_scene(2000, 0), frame_size(preset))
    clock = StepClock()
    pipeline = Pipeline(preset, dict(runners), options, **({"step": clock} if tell else {}))  # type: ignore[arg-type]
    vocabulary = pipeline.embed_names(source.names())

    def run() -> None:
        pipeline(clip.frames, clip.waveform, vocabulary)
        if tell:
            tell(clock.take())

    return run


def clip_options(random: bool) -> Options:
    """Published; with random weights, under which all queries are one region, they share a crop."""
    return Options(merge_iou=0.95) if random else Options()


def measure_graphs(
    preset: Preset, present: Mapping[str, BackendConfig], rounds: int, tell: Callable[[], object]
) -> list[dict[str, Any]]:
    """A row for each graph and backend."""
    opened = {name: backend.open() for name, backend in present.items()}
    rows: list[dict[str, Any]] = []
    for graph in GRAPHS:
        inputs = graph_inputs(preset, graph)
        runs = {name: graph_run(runners[graph], inputs) for name, runners in opened.items()}
        seconds = interleaved_benchmark(runs, rounds, progress=tell)
        plain = medians(seconds[EAGER])
        rows += [
            {"graph": graph, "runner": name, "speed_up": ratio(plain, medians(turns)), **percentiles(turns)}
            for name, turns in seconds.items()
        ]
    return rows


def measure_clips(
    source: Source, present: Mapping[str, BackendConfig], options: Options, rounds: int, tell: Tell
) -> list[dict[str, Any]]:
    """A row for each backend's whole clip, with the milliseconds of each step: the median over all calls."""
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in present}
    runs = {name: end_to_end(source, c.open(), options, steps[name].append) for name, c in present.items()}
    seconds = interleaved_benchmark(runs, rounds, progress=tell, least=SETTLED)
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
    runners = backends(source)[name].open([graph])
    return graph_run(runners[graph], graph_inputs(source.preset(), graph))


def prepare_clip(source: Source, name: str, options: Options) -> Run:
    """For `peak_memory`: the whole clip."""
    return end_to_end(source, backends(source)[name].open(), options)


def prepare_sweep(source: Source, name: str, sweep: str, value: int) -> Run:
    """One point of a sweep, for `peak_memory` and for the clock.

    Raises UserError for a sweep that there is not.
    """
    preset = source.preset()
    if sweep == "network pixels (usslm, eager)":
        size, inputs = (value, value), graph_inputs(preset, USSLM_GRAPH, size=(value, value))
        module = graph_modules(source.models(), size)[USSLM_GRAPH]
        return graph_run(TorchRunner(graph_specs(preset, size)[USSLM_GRAPH], module), inputs)
    if sweep.startswith("clips"):
        graph, inputs = USSLM_GRAPH, graph_inputs(preset, USSLM_GRAPH, clips=value)
    elif sweep.startswith("frame"):
        graph, inputs = USSLM_GRAPH, graph_inputs(preset, USSLM_GRAPH, size=(value, value))
    elif sweep == "crops (clip_image_encoder)":
        graph, inputs = CLIP_IMAGE_ENCODER, graph_inputs(preset, CLIP_IMAGE_ENCODER, count=value)
    elif sweep == "names (clip_text_encoder)":
        graph, inputs = CLIP_TEXT_ENCODER, graph_inputs(preset, CLIP_TEXT_ENCODER, count=value * SENTENCES)
    else:
        return _python_step(preset, sweep, value)
    return graph_run(backends(source)[name].open([graph])[graph], inputs)


def _python_step(preset: Preset, sweep: str, value: int) -> Run:
    """The steps between the graphs, on smooth random masks of which most are valid."""
    height, width = (-(-side // 32) * 32 for side in frame_size(preset))
    random, queries = torch.Generator().manual_seed(0), preset.mask_decoder.num_queries
    coarse = torch.randn(queries, preset.snippets, 6, 6, generator=random)
    logits = torch.nn.functional.interpolate(coarse, size=(height // 4, width // 4), mode="bilinear")
    if sweep == "queries (find_regions)":
        return lambda: find_regions(logits, torch.arange(value))
    if sweep == "crops (crop_regions)":
        frames = torch.randint(0, 256, (preset.snippets, height, width, 3), generator=random, dtype=torch.uint8)
        some = find_regions(logits).select(slice(0, value))
        return lambda: crop_regions(logits, frames, frame_size(preset), some, preset.clip.image_size)
    if sweep == "names (classify)":
        texts, embeddings = torch.randn(value, preset.clip.embed_dim), torch.randn(queries, preset.clip.embed_dim)

        def classify() -> object:
            scores = open_vocabulary.similarity(embeddings, texts)
            return open_vocabulary.rank(*open_vocabulary.class_probabilities(scores, torch.arange(queries)))

        return classify
    raise UserError(f"the sweep '{sweep}' is unknown; choose of {', '.join(SWEEPS)}")


def measure_sweep(
    source: Source, name: str, sweep: str, values: Iterable[int], rounds: int, memory: bool, tell: Tell
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
        tell()
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
    options, swept = clip_options(source.random()), fastest(present)
    values = {name: sizes[preset.name != "tiny"] for name, sizes in SWEEPS.items()} if sweeps else {}
    # A process for each figure: those of a large preset take half a minute each on a CPU.
    weighed = {EAGER, swept} if preset.name != "tiny" and not torch.cuda.is_available() else set(present)
    work = len(present) * rounds * (len(GRAPHS) + 1) + sum(map(len, values.values()))
    work += (len(weighed) + len(GRAPHS)) * memory
    with Progress(console=console) as progress:
        task = progress.add_task("measuring", total=work)
        tell = partial(progress.advance, task)
        clips = measure_clips(source, present, options, rounds, tell)
        graphs = measure_graphs(preset, present, rounds, tell)
        if memory:
            for row in clips:
                if row["runner"] not in weighed:
                    continue
                row["memory_mib"] = peak_memory(prepare_clip, source, row["runner"], options)
                tell()
            for row in graphs:
                if row["runner"] == swept:
                    row["memory_mib"] = peak_memory(prepare_graph, source, swept, row["graph"])
                    tell()
        grown = [measure_sweep(source, swept, name, v, rounds, memory, tell) for name, v in values.items()]
    missing = {name: backend.missing for name, backend in every.items() if backend.missing}
    about = {"preset": preset.name, "frames": frame_size(preset), "crops": CROPS, "sentences": SENTENCES}
    about |= {"random_weights": source.random(), "options": {"merge_iou": options.merge_iou}, "swept": swept}
    about |= {"names": len(source.names())}
    return header() | about | {"clips": clips, "graphs": graphs, "sweeps": grown, "missing": missing}


def print_tables(found: dict[str, Any], console: Console) -> None:
    """Graphs and clips, then the sweeps with their exponents, then what is missing."""
    made = Table(title=f"{found['preset']}, frames {found['frames']}, {found['machine']['threads']} threads")
    for column in ("graph", "runner", "p50 ms", "p90 ms", "p99 ms", "clips/s", "x eager", "peak MiB"):
        made.add_column(column, justify="left" if column in ("graph", "runner") else "right")
    for row in found["graphs"] + found["clips"]:
        memory, rate = row.get("memory_mib", {}).get("peak"), row.get("clips_per_s")
        cells = [row["p50_ms"], row["p90_ms"], row["p99_ms"], rate, row["speed_up"], memory]
        made.add_row(row["graph"], row["runner"], *("-" if cell is None else f"{cell:.4g}" for cell in cells))
    console.print(made)
    made = Table(title=f"growth with size ({found['swept']}): cost = a * size^exponent")
    for column in ("what grows", "sizes", "p50 ms", "exponent", "r2", "MiB above loaded", "exponent", "r2"):
        made.add_column(column)
    for row in found["sweeps"]:
        sizes, times, memory = (
            ", ".join(f"{point[key]:.4g}" for point in row["points"] if key in point)
            for key in ("size", "p50_ms", "growth_mib")
        )
        fits = [f"{row[key]:.2f}" if key in row else "-" for key in ("exponent", "r2", "memory_exponent", "memory_r2")]
        made.add_row(row["sweep"], sizes, times, *fits[:2], memory, *fits[2:])
    console.print(made)
    for name, why in found["missing"].items():
        console.print(f"{name}: {why}", highlight=False)


@command
def main(
    engines: Annotated[Path, typer.Option(help="Folder that build_engines.py wrote.")],
    weights: Annotated[list[Path] | None, typer.Option(help="The files that the engines were built from.")] = None,
    runners: Annotated[str | None, typer.Option(help="Only these, joined by commas.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each backend.")] = 9,
    sweeps: Annotated[bool, typer.Option(help="Growth with size.")] = True,
    memory: Annotated[bool, typer.Option(help="Peak memory, each figure in a process of its own.")] = True,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile too; it takes minutes.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure latency, memory and their growth with size."""
    source = Source(engines, tuple(weights or ()))
    found = run_latency(source, Console(stderr=True), rounds, runners, sweeps, memory, compile)
    print_tables(found, Console(width=150))
    if json is not None:
        write_json(json, found)


if __name__ == "__main__":
    typer.run(main)
