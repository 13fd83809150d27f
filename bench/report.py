"""The whole bench in one command: every measurement, then one self-contained HTML page and the same as Markdown.

    python bench/report.py --engines DIR --out OUT [--serving scenarios.json] [--quick]

OUT gets report.html, report.md with its pictures/, and the JSON of each measurement. What a machine lacks (a GPU, a
built plugin, a format that was not built) is named in the report with the reason; no figure is invented. Large presets
on a CPU take the short forms of everything: their plain path alone needs minutes a clip.
"""

import json as json_library
import re
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import jinja2
import numpy as np
import torch
import typer
from markdown_it import MarkdownIt
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
SERVERS, RATES = (1, 2, 4), (0.5, 2, 8, 32)  # the load curves; clips/s in units of what one server completes


def write_report(out: Path, title: str, found: Mapping[str, Any], pictures: Mapping[str, bytes | None]) -> None:
    """report.md by its template, the pictures beside it, and report.html: the same page in one file."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)  # fmt: skip
    environment.filters["cell"] = lambda cell: text_of(cell).replace("|", r"\|")
    present = {name: content for name, content in pictures.items() if content}
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for name, content in present.items():
        write_bytes(out / "pictures" / f"{name}.png", content)
    text = environment.get_template("report.md.jinja").render(found, title=title, pictures=pictures)
    text = re.sub(r"\n{3,}", "\n\n", text)
    inline = {
        f"pictures/{name}.png": f"data:image/png;base64,{b64encode(one).decode()}" for name, one in present.items()
    }
    body = re.sub(r'(?<=src=")[^"]+', lambda link: inline[link[0]], MarkdownIt("js-default").render(text))
    page = environment.get_template("report.html.jinja").render(title=title, body=body)
    write_bytes(out / "report.md", text.encode())
    write_bytes(out / "report.html", page.encode())


def machine_table(head: Mapping[str, Any]) -> Table:
    """Machine, versions and commit."""
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    rows = [*head["machine"].items(), ("commit", head["commit"]), ("time", head["time"]), ("versions", versions)]
    return Table("", ["what", "value"], rows)


def capacity_of(latency: Mapping[str, Any]) -> tuple[dict[str, Any], Table]:
    """The service time that plans start from, and the servers for several loads."""
    runner, service, steps = service_of(latency, None)
    limit = 5 * (service.p99 or service.mean)
    plans = [(load / service.mean, plan(load / service.mean, limit, service, steps)) for load in RATES]
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
    return {"runner": runner, "service": asdict(service), "limit": limit}, Table("", columns, rows)


def load_table(found: Mapping[str, Any]) -> Table:
    """Throughput and latency of each system at each rate."""
    keys = ("rate", "completed", "p50_ms", "p90_ms", "p99_ms")
    rows = [[n, *(point[key] for key in keys)] for n, system in found["systems"].items() for point in system["points"]]
    return Table("", ["system", "clips/s asked", "completed", "p50 ms", "p90 ms", "p99 ms"], rows)


def serving_table(path: Path) -> Table:
    """What bench/serving.py wrote to a file, one row a value."""
    try:
        content = json_library.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        how = "give a JSON file of bench/serving.py"
        raise UserError(f"--serving {path} cannot be read ({error}); {how}") from error
    commit = content.pop("header", {}).get("commit", "unknown")
    return Table(f"{path.name}, commit {commit}", ["what", "value"], list(_values(content)))


def _values(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Cell]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _values(value, f"{prefix}{name}, ")
        else:
            yield prefix + name, value if isinstance(value, str | int | float) else json_library.dumps(value)


def overlays(source: Source, clips: int) -> Iterator[tuple[str, bytes]]:
    """The truth beside what the reference and the fast path find, by the clip's name."""
    preset, found = source.preset(), backends(source)
    names = source.names() if source.random() else WORLD.names
    slow, fast = found[EAGER].open(), found[fastest(found)].open()
    pipelines = {
        "reference": Pipeline(preset, slow, clip_options(True) if source.random() else PLAIN),
        "sounding": Pipeline(preset, fast, Options(proposals=Proposals.SOUNDING)),
        "all switches": Pipeline(preset, fast, ALL),
    }
    vocabulary = pipelines["reference"].embed_names(names)
    for clip in world_clips(2000, clips):
        maps: dict[str, NDArray[np.integer]] = {} if source.random() else {"truth": clip.label_map}
        for name, pipeline in pipelines.items():
            maps[name] = pipeline(clip.frames, clip.waveform, vocabulary).label_map.numpy(force=True)
        yield f"clip_{clip.name}", plots.overlays(clip.frames, maps, names)


def measured_load(engines: Path, out: Path, quick: bool) -> dict[str, Any] | str:
    """What a server completes under load, or why that was not measured."""
    try:
        found = measure_load(engines, out / "serving", *((1, 8, LOADS[:1]) if quick else (25, 50, LOADS)))
    except UserError as error:
        return f"Load on a server was not measured: {error}"
    write_json(out / "load.json", found)
    return found


def main(
    engines: EnginesOption,
    out: Annotated[Path, typer.Option(help="Folder to write; files of an earlier report are replaced.")],
    weights: WeightsOption = None,
    serving: Annotated[list[Path] | None, typer.Option(help="JSON file of bench/serving.py; several times.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few clips and rounds: to see that all works.")] = False,
    compile: CompileOption = False,
) -> None:
    """Measure everything and write the report."""
    start, console, source = time.monotonic(), Console(stderr=True), Source.of(engines, weights)
    preset, head = source.preset(), header()
    small = preset.vocabulary == "sounding_shapes"
    large_on_cpu = not small and not torch.cuda.is_available()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made ({error.strerror}); give another folder") from error
    served = [serving_table(path) for path in serving or []]  # a wrong file should be refused before the long work

    console.rule("speed-ups")
    clips = 1 if large_on_cpu else 200 if small and not quick else 8
    rounds = 1 if quick else 2 if large_on_cpu else 15
    rows = LARGE_ROWS if large_on_cpu else None
    speedups = run_rows(source, console, clips, 40 if clips == 200 else 4, rows, warm_up=not large_on_cpu)
    write_json(out / "speedups.json", speedups)
    console.rule("latency")
    latency = run_latency(source, console, rounds, None, True, not quick, compile)
    write_json(out / "latency.json", latency)
    console.rule("parity")
    parity = run_parity(source, console, clips, options=clip_options(source.random()))
    write_json(out / "parity.json", parity)
    console.rule("capacity")
    measured = check(source, 1, 0.6, 1200 if clips == 200 else 6 if large_on_cpu else 30)
    write_json(out / "capacity.json", header() | {"check": measured})
    capacity, capacity_table = capacity_of(latency)
    console.rule("serving")
    load: dict[str, Any] | str = "Load on a server is not measured for a large preset on a CPU: a clip takes seconds."
    load = load if large_on_cpu else measured_load(engines, out, quick)
    console.rule("side by side")
    during = Service(measured["service_ms"]["during"] / 1e3, measured["service_ms"]["cv2"])
    sweeps = latency["sweeps"]
    pictures = {
        "speedups": plots.speed_ups(speedups["rows"]),
        "crops": plots.crops_against_miou(speedups["rows"]),
        "breakdown": plots.breakdown(latency["clips"]),
        "growth": plots.growth(sweeps, "p50_ms", "ms"),
        "memory": plots.growth(sweeps, "growth_mib", "MiB") if "growth_mib" in sweeps[0]["points"][0] else None,
        "load": plots.load_curve(during, SERVERS, response, measured),
        "throughput": None if isinstance(load, str) else plots.throughput(load["systems"]),
        **dict(overlays(source, 4 if small and not quick else 2)),
    }
    tables = {
        "machine": machine_table(head), "speedups": speedups_table(speedups), "latency": latency_table(latency),
        "missing": missing_table(latency), "growth": growth_table(latency), "parity": parity_table(parity),
        "capacity": capacity_table, "check": check_table(measured), "serving": served,
        "load": None if isinstance(load, str) else load_table(load),
    }  # fmt: skip
    found = {
        "head": head,
        "speedups": speedups,
        "latency": latency,
        "parity": parity,
        "capacity": capacity,
        "load": load,
    }
    minutes = (time.monotonic() - start) / 60
    write_report(out, f"ovavss bench: {preset.name}", found | {"tables": tables, "minutes": minutes}, pictures)
    print(f"wrote {out / 'report.html'} and {out / 'report.md'} in {minutes:.1f} minutes")


if __name__ == "__main__":
    run(main)
