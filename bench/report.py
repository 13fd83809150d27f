"""The whole bench in one command: every measurement, then one self-contained HTML page and the same as Markdown.

    python bench/report.py --engines DIR --out OUT [--serving scenarios.json] [--quick]

OUT gets report.html, report.md with its pictures/, and the JSON of each measurement. What a machine lacks (a GPU, a
built plugin, a format that was not built) is named in the report with the reason; no figure is invented. Large presets
on a CPU take the short forms of everything: their plain path alone needs minutes a clip.
"""

import base64
import json as json_library
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jinja2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console

from bench import plots
from bench.backends import EAGER, Source, backends, fastest
from bench.latency import clip_options, growth_table, latency_table, missing_table, run_latency
from bench.measuring import Cell, Table, header, text_of
from bench.options import CompileOption, EnginesOption, WeightsOption, run
from bench.parity import parity_table, run_parity
from bench.serving import LOADS, measure_load
from bench.speedups import ALL, PLAIN, run_rows, speedups_table
from bench.studies.capacity import Service, check, check_table, plan, response, service_of
from ovavss.errors import UserError
from ovavss.evaluation.evaluate import WORLD, world_clips
from ovavss.files import write_bytes, write_json
from ovavss.models.ov_avss.presets import Proposals
from ovavss.pipeline.pipeline import Pipeline
from ovavss.pipeline.steps import Options

LARGE_ROWS = "merged,few crops,onnx+op,one by one"


@dataclass(frozen=True)
class Picture:
    """A PNG of the report; a file beside the Markdown, a data URI in the page."""

    name: str
    caption: str
    content: bytes

    def base64(self) -> str:
        """As the page holds it."""
        return base64.b64encode(self.content).decode()


@dataclass
class Section:
    """A heading and what stands under it, in order."""

    heading: str
    blocks: list[Any] = field(default_factory=list)

    def picture(self, name: str, content: bytes | None, caption: str) -> None:
        """Add a PNG; None adds nothing."""
        if content is not None:
            self.blocks.append(Picture(name, caption, content))


def write_report(out: Path, title: str, sections: Sequence[Section]) -> None:
    """report.html and report.md, by the template beside this file, and the pictures."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=jinja2.select_autoescape(["html.jinja"]),
                                     trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters["cell"] = text_of
    environment.tests["number"] = lambda cell: not isinstance(cell, str)
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for block in (block for section in sections for block in section.blocks if isinstance(block, Picture)):
        write_bytes(out / "pictures" / f"{block.name}.png", block.content)
    for kind in ("html", "md"):
        text = environment.get_template(f"report.{kind}.jinja").render(title=title, sections=sections)
        write_bytes(out / f"report.{kind}", text.encode())


def machine_section(head: Mapping[str, Any]) -> Section:
    """Machine, versions and commit."""
    machine, versions = head["machine"], ", ".join(f"{name} {v}" for name, v in head["versions"].items())
    rows = [*([key, "none" if value is None else value] for key, value in machine.items()),
            ["commit", head["commit"]], ["time", head["time"]], ["versions", versions]]  # fmt: skip
    section = Section("Machine", [Table("", ["what", "value"], rows)])
    if not machine["gpu"]:
        section.blocks.append("There is no GPU here. The same command on a machine with one fills its rows.")
    return section


def speedups_section(found: Mapping[str, Any]) -> Section:
    """The table of switches, and crops against mIoU."""
    section = Section("Speed-ups of the whole clip, one switch each")
    section.blocks.append(
        f"{found['clips']} clips of Sounding Shapes (seed {found['seed']}). The reference is eager PyTorch with the "
        "published options. Every row ran in turn on the same clips; 'x faster' is the median of rounds side by side."
    )
    if found["random_weights"]:
        section.blocks.append("These weights are random or of another data set: there is no mIoU, only agreement.")
    section.blocks.append(speedups_table(found))
    section.picture("speedups", plots.speed_ups(found["rows"]), "Each switch alone, and all together")
    caption = "Crop count against mIoU; dashed: the gate, 99.9 %"
    section.picture("crops", plots.crops_against_miou(found["rows"]), caption)
    return section


def latency_sections(found: Mapping[str, Any]) -> list[Section]:
    """Graphs, whole clips with their steps, what is missing; then growth with size."""
    height, width = found["frames"]
    merged = found["options"]["merge_iou"]
    options = "the published options" if merged is None else f"queries that overlap by {merged} sharing a crop"
    latency, growth = Section("Latency"), Section("Growth with size")
    latency.blocks += [
        f"Frames of {height} x {width}; the CLIP graphs on {found['crops']} crops and {found['sentences']} sentences; "
        f"the whole clip with {options} and {found['names']} names.",
        latency_table(found),
    ]
    latency.picture("breakdown", plots.breakdown(found["clips"]), "Where the time of a clip goes")
    if found["missing"]:
        latency.blocks.append(missing_table(found))
    growth.blocks.append(
        f"Runner: {found['swept']}, except where the name says eager. Cost = a * size^exponent, by least squares of "
        "logarithms. Memory is the peak above what is resident once everything is loaded, in a process of its own. T "
        "is five seconds in every graph: longer video is more clips."
    )
    if found["sweeps"]:
        growth.picture("growth", plots.growth(found["sweeps"], "p50_ms", "ms"), "Time against size")
        if "growth_mib" in found["sweeps"][0]["points"][0]:
            growth.picture("memory", plots.growth(found["sweeps"], "growth_mib", "MiB"), "Peak memory against size")
    growth.blocks.append(growth_table(found))
    return [latency, growth]


def parity_section(found: Mapping[str, Any]) -> Section:
    """The parity table."""
    failed = [row["name"] for row in found["rows"] if not row.get("passed", True)]
    verdict = f"below the gate: {', '.join(failed)}" if failed else "all that ran passed"
    return Section("mIoU parity", [f"{found['clips']} clips: {verdict}.", parity_table(found)])


def capacity_section(latency: Mapping[str, Any], measured: Mapping[str, Any], loads: Sequence[float]) -> Section:
    """Servers for several loads, and the formula against the measured point."""
    name, service, steps = service_of(latency, None)
    limit = 5 * (service.p99 or service.mean)
    plans = [(load / service.mean, plan(load / service.mean, limit, service, steps)) for load in loads]
    rows: list[list[Cell]] = [
        [rate, p.servers, 100 * p.busy, 1e3 * p.p99, p.step, p.ceiling,
         ", ".join(f"{step} {n}" for step, n in p.instances.items())]
        for rate, p in plans
    ]  # fmt: skip
    columns = [
        "clips/s",
        "servers",
        "busy %",
        "p99 ms",
        "scale first",
        "its ceiling, clips/s",
        "instances of each step",
    ]
    section = Section("Capacity")
    section.blocks += [
        f"From the times of {name}: mean {1e3 * service.mean:.1f} ms. M/G/c: random arrivals, one line, servers that "
        f"are alike and share nothing. The p99 of the response is kept under {1e3 * limit:.0f} ms, five times one "
        "clip's own p99. 'scale first' is the slowest step, where each step is a server of its own.",
        Table("", columns, rows),
        "Checked with a real load: 'during' uses the service times of the load itself, 'simulated' draws from them, "
        "'replayed' is a line with the load's own arrivals and service times.",
        check_table(measured),
    ]
    during = Service(measured["service_ms"]["during"] / 1e3, measured["service_ms"]["cv2"])
    section.picture("load", plots.load_curve(during, (1, 2, 4), response, measured), "p99 against load")
    return section


def add_load(section: Section, found: Mapping[str, Any]) -> None:
    """Throughput against load."""
    names = ("rate", "completed", "p50_ms", "p90_ms", "p99_ms")
    rows = [[n, *(point[key] for key in names)] for n, system in found["systems"].items() for point in system["points"]]
    section.blocks += [
        f"MLPerf LoadGen's Server scenario, {found['seconds']:g} s at each rate, on the Triton ensemble and the local "
        "pipeline: clips arrive at random; a rate is a share of what the same system reaches Offline.",
        Table("", ["system", "clips/s asked", "completed", "p50 ms", "p90 ms", "p99 ms"], rows),
    ]
    section.picture("throughput", plots.throughput(found["systems"]), "Latency against load; dotted: Offline")


def serving_section(paths: Sequence[Path]) -> Section:
    """What bench/serving.py wrote, as tables: an entry of entries becomes one with a row for each."""
    section = Section("Serving")
    for path in paths:
        try:
            content = json_library.loads(path.read_text())
            if not isinstance(content, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as error:
            how = "give a JSON file of bench/serving.py"
            raise UserError(f"--serving {path} cannot be read ({error}); {how}") from error
        head = content.pop("header", {})
        section.blocks.append(f"{path.name}, commit {head.get('commit', 'unknown')}")
        section.blocks += entries("", content)
    return section


def entries(title: str, content: Mapping[str, Any]) -> list[Table]:
    """Plain values in one table, each entry of entries in one of its own."""
    nested = {name: value for name, value in content.items() if isinstance(value, dict)}
    plain = [[name, _plain(value)] for name, value in content.items() if name not in nested]
    tables = [Table(title, ["what", "value"], plain)] if plain else []
    if title and nested:
        columns = list(dict.fromkeys(column for row in nested.values() for column in row))
        cells = [[key, *(_plain(row.get(column)) for column in columns)] for key, row in nested.items()]
        return [Table(title, [title, *columns], cells), *tables]
    return tables + [table for name, value in nested.items() for table in entries(name, value)]


def _plain(value: Any) -> Cell:
    return value if value is None or isinstance(value, str | int | float) else json_library.dumps(value)


def overlays_section(source: Source, clips: int) -> Section:
    """The truth beside what the reference and the fast path find."""
    section, preset, found = Section("Side by side"), source.preset(), backends(source)
    names = source.names() if source.random() else WORLD.names
    fast = fastest(found)
    slow_options = clip_options(True) if source.random() else PLAIN
    pipelines = {
        "reference": Pipeline(preset, found[EAGER].open(), slow_options),
        "sounding": Pipeline(preset, found[fast].open(), Options(proposals=Proposals.SOUNDING)),
        "all switches": Pipeline(preset, found[fast].open(), ALL),
    }
    vocabulary = pipelines["reference"].embed_names(names)
    if source.random():
        section.blocks.append("Random weights: what is found means nothing, the path is the real one.")
    for number, clip in enumerate(world_clips(2000, clips)):
        maps: dict[str, NDArray[np.integer]] = {} if source.random() else {"truth": clip.label_map}
        for name, pipeline in pipelines.items():
            maps[name] = pipeline(clip.frames, clip.waveform, vocabulary).label_map.numpy(force=True)
        picture = plots.overlays(clip.frames, maps, names)
        section.picture(f"clip_{number}", picture, f"Clip {clip.name}, the third second")
    return section


def main(
    engines: EnginesOption,
    out: Annotated[Path, typer.Option(help="Folder to write; files of an earlier report are replaced.")],
    weights: WeightsOption = None,
    serving: Annotated[list[Path] | None, typer.Option(help="JSON file of bench/serving.py; several times.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few clips and rounds: to see that all works.")] = False,
    compile: CompileOption = False,
) -> None:
    """Measure everything and write the report."""
    start, console = time.monotonic(), Console(stderr=True)
    source = Source.of(engines, weights)
    preset, head = source.preset(), header()
    small = preset.vocabulary == "sounding_shapes"
    large_on_cpu = not small and not torch.cuda.is_available()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made ({error.strerror}); give another folder") from error
    served = serving_section(serving or [])  # first: a wrong file should be refused before the long work
    sections = [machine_section(head)]

    console.rule("speed-ups")
    clips = 1 if large_on_cpu else 200 if small and not quick else 8
    rounds = 1 if quick else 2 if large_on_cpu else 15
    rows = LARGE_ROWS if large_on_cpu else None
    speedups = run_rows(source, console, clips, 40 if clips == 200 else 4, rows, warm_up=not large_on_cpu)
    write_json(out / "speedups.json", speedups)
    sections.append(speedups_section(speedups))
    console.rule("latency")
    latency = run_latency(source, console, rounds, None, True, not quick, compile)
    write_json(out / "latency.json", latency)
    sections += latency_sections(latency)
    console.rule("parity")
    parity = run_parity(source, console, clips, options=clip_options(source.random()))
    write_json(out / "parity.json", parity)
    sections.append(parity_section(parity))
    console.rule("capacity")
    measured = check(source, 1, 0.6, 1200 if clips == 200 else 6 if large_on_cpu else 30)
    write_json(out / "capacity.json", header() | {"check": measured})
    sections.append(capacity_section(latency, measured, (0.5, 2, 8, 32)))
    console.rule("serving")
    if large_on_cpu:
        served.blocks.append("Load on a server is not measured for a large preset on a CPU: a clip takes many seconds.")
    else:
        try:
            load = measure_load(engines, out / "serving", *((1, 8, LOADS[:1]) if quick else (25, 50, LOADS)))
            write_json(out / "load.json", load)
            add_load(served, load)
        except UserError as error:
            served.blocks.append(f"Load on a server was not measured: {error}")
    console.rule("side by side")
    sections += [served, overlays_section(source, 4 if small and not quick else 2)]
    made = f"{(time.monotonic() - start) / 60:.1f} minutes"
    sections[-1].blocks.append(f"Made in {made}.")
    write_report(out, f"ovavss bench: {preset.name}", sections)
    print(f"wrote {out / 'report.html'} and {out / 'report.md'} in {made}")


if __name__ == "__main__":
    run(main)
