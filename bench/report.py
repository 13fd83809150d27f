"""The whole bench in one command: every measurement, then one self-contained HTML page and the same as Markdown.

    python bench/report.py --engines DIR --out OUT [--serving scenarios.json] [--quick]

OUT gets report.html, report.md with its pictures/, and the JSON of each measurement. What a machine lacks (a GPU, a
built plugin, a format that was not built) stands in the report as a sentence; no figure is invented. Large presets on a
CPU take the short forms of everything: their plain path alone needs minutes a clip.
"""

import base64
import html
import json as json_library
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import plots  # noqa: E402
from backends import EAGER, Source, backends, fastest  # noqa: E402
from capacity import Service, check, plan, response, service_of  # noqa: E402
from latency import run_latency  # noqa: E402
from measuring import header  # noqa: E402
from parity import GATE, MEASURES, changes, run_parity  # noqa: E402
from serving import LOADS, measure_load  # noqa: E402
from speedups import ALL, PLAIN, run_rows  # noqa: E402

from ovavss.commands.options import command  # noqa: E402
from ovavss.errors import UserError  # noqa: E402
from ovavss.evaluation.evaluate import WORLD, world_clips  # noqa: E402
from ovavss.files import write_bytes, write_json  # noqa: E402
from ovavss.models.ov_avss.presets import Proposals  # noqa: E402
from ovavss.pipeline.pipeline import Options, Pipeline  # noqa: E402

LARGE_ROWS = "merged,few crops,onnx+op,one by one"
Cell = str | float | int | None


class Page:
    """Grows as Markdown and HTML at the same time; pictures are files for one and data URIs in the other."""

    def __init__(self, title: str, out: Path) -> None:
        self.out, self.title = out, title
        self.markdown, self.html = [f"# {title}"], [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """A section."""
        self.markdown.append(f"## {text}")
        self.html.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self.markdown.append(text)
        self.html.append(f"<p>{html.escape(text)}</p>")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Numbers with four digits; None is a dash."""
        texts = [[_text(cell) for cell in row] for row in rows]
        lines = ["| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *texts]]
        self.markdown.append("\n".join(lines))
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        body = "".join(
            "<tr>" + "".join(_td(cell, text) for cell, text in zip(row, line)) + "</tr>"
            for row, line in zip(rows, texts)
        )
        self.html.append(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')

    def picture(self, name: str, content: bytes | None, what: str) -> None:
        """A PNG with its caption; None leaves it out."""
        if content is None:
            return
        (self.out / "pictures").mkdir(parents=True, exist_ok=True)
        write_bytes(self.out / "pictures" / f"{name}.png", content)
        self.markdown.append(f"![{what}](pictures/{name}.png)")
        data = base64.b64encode(content).decode()
        caption = html.escape(what)
        image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        self.html.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")

    def write(self) -> None:
        """report.md and report.html."""
        write_bytes(self.out / "report.md", ("\n\n".join(self.markdown) + "\n").encode())
        page = _TEMPLATE.format(title=html.escape(self.title), body="\n".join(self.html))
        write_bytes(self.out / "report.html", page.encode())


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; color: #222;
       background: #fff }}
h2 {{ margin-top: 2.2rem; border-bottom: 1px solid #ccc }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: 13px }}
th, td {{ padding: .2rem .6rem; border-bottom: 1px solid #e3e3e3; text-align: left }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums }}
figure {{ margin: 1rem 0 }} img {{ max-width: 100%; height: auto }} figcaption {{ font-size: 13px; color: #555 }}
</style></head><body>
{body}
</body></html>
"""


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _td(cell: Cell, text: str) -> str:
    kind = ' class="number"' if cell is None or isinstance(cell, int | float) else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def add_speedups(page: Page, found: Mapping[str, Any]) -> None:
    """The table of switches, and crops against mIoU."""
    page.heading("Speed-ups of the whole clip, one switch each")
    page.text(
        f"{found['clips']} clips of Sounding Shapes (world {found['seed']}). The reference is eager PyTorch with the "
        "published options. Every row ran in turn on the same clips; 'x faster' is the median of rounds side by side."
    )
    if found["random_weights"]:
        page.text("These weights are random or know nothing of this world: there is no mIoU, only label-map agreement.")
    columns = ["switch", "what", "s/clip", "x faster", "crops/clip", "x fewer", *MEASURES, "mean % of ref.", "% same"]
    rows: list[list[Cell]] = []
    for row in found["rows"]:
        if row["missing"]:
            rows.append([row["name"], row["missing"], *[None] * 10])
            continue
        miou = row["miou"] or {}
        figures = [row[key] for key in ("seconds_per_clip", "speed_up", "crops_per_clip", "fewer_crops")]
        quality = [*(miou.get(m) for m in MEASURES), (row.get("share") or {}).get("mean"), row["agreement"]]
        rows.append([row["name"], row["what"], *figures, *quality])
    page.table(columns, rows)
    page.picture("speedups", plots.speed_ups(found["rows"]), "Each switch alone, and all together")
    page.picture("crops", plots.crops_against_miou(found["rows"]), "Crop count against mIoU; dashed: the gate, 99.9 %")


def add_latency(page: Page, found: Mapping[str, Any]) -> None:
    """Graphs, whole clips with their steps, growth with size, and who is missing."""
    page.heading("Latency")
    height, width = found["frames"]
    merged = found["options"]["merge_iou"]
    options = "the published options" if merged is None else f"queries that overlap by {merged} sharing a crop"
    page.text(
        f"Frames of {height} x {width}; the CLIP graphs on {found['crops']} crops and {found['sentences']} sentences; "
        f"the whole clip with {options} and {found['names']} names."
    )
    columns = ["graph", "runner", "p50 ms", "p90 ms", "p99 ms", "clips/s", "x eager", "loaded MiB", "peak MiB"]
    page.table(
        columns,
        [
            [row["graph"], row["runner"], row["p50_ms"], row["p90_ms"], row["p99_ms"], row.get("clips_per_s"),
             row["speed_up"], row.get("memory_mib", {}).get("loaded"), row.get("memory_mib", {}).get("peak")]
            for row in [*found["clips"], *found["graphs"]]
        ],
    )  # fmt: skip
    page.picture("breakdown", plots.breakdown(found["clips"]), "Where the time of a clip goes")
    if found["missing"]:
        page.text("Not measured here:")
        page.table(["runner", "why"], [[name, why] for name, why in found["missing"].items()])
    page.heading("Growth with size")
    page.text(
        f"Runner: {found['swept']}, except where the name says eager. Cost = a * size^exponent, by least squares of "
        "logarithms. Memory is the peak above what is resident once everything is loaded, in a process of its own. T "
        "is five seconds in every graph: longer video is more clips."
    )
    if found["sweeps"]:
        page.picture("growth", plots.growth(found["sweeps"], "p50_ms", "ms"), "Time against size")
        if "growth_mib" in found["sweeps"][0]["points"][0]:
            page.picture("memory", plots.growth(found["sweeps"], "growth_mib", "MiB"), "Peak memory against size")
    columns = ["what grows", "size", "p50 ms", "peak MiB", "MiB above loaded", "exponent of time", "of memory"]
    page.table(
        columns,
        [
            [sweep["sweep"], point["size"], point["p50_ms"], point.get("peak_mib"), point.get("growth_mib"),
             sweep["exponent"] if last else None, sweep.get("memory_exponent") if last else None]
            for sweep in found["sweeps"]
            for last, point in [(p is sweep["points"][-1], p) for p in sweep["points"]]
        ],
    )  # fmt: skip


def add_parity(page: Page, found: Mapping[str, Any]) -> None:
    """The parity table."""
    page.heading("mIoU parity")
    failed = [row["name"] for row in found["rows"] if not row.get("passed", True)]
    verdict = f"below the gate: {', '.join(failed)}" if failed else "all that ran passed"
    page.text(
        f"{found['clips']} clips against eager PyTorch float32; the gate is {GATE} % of the reference: {verdict}."
    )
    rows: list[list[Cell]] = []
    for row in found["rows"]:
        if row["missing"]:
            rows.append([row["name"], *[None] * 6, row["missing"]])
            continue
        miou, share = row.get("miou", {}), [v for v in row.get("share", {}).values() if v is not None]
        quality = [*(miou.get(m) for m in MEASURES), min(share, default=None), row["agreement"]]
        rows.append([row["name"], *quality, changes(row, 2)])
    page.table(["what", *MEASURES, "least % of ref.", "% same pixels", "most changed classes"], rows)


def add_capacity(page: Page, latency: Mapping[str, Any], measured: Mapping[str, Any], rates: Sequence[float]) -> None:
    """Servers for several loads, and the formula against the measured point."""
    name, service, steps = service_of(latency, None)
    limit = 5 * (service.p99 or service.mean)
    page.heading("Capacity")
    page.text(
        f"From the times of {name}: mean {1e3 * service.mean:.1f} ms. M/G/c: random arrivals, one line, servers that "
        f"are alike and share nothing. The p99 of the response is kept under {1e3 * limit:.0f} ms, five times one "
        "clip's own p99. 'scale first' is the slowest step, where each step is a server of its own."
    )
    made = [(rate / service.mean, plan(rate / service.mean, limit, service, steps)) for rate in rates]
    columns = [
        "clips/s",
        "servers",
        "busy %",
        "p99 ms",
        "scale first",
        "its ceiling, clips/s",
        "instances of each step",
    ]
    page.table(
        columns,
        [
            [rate, p.servers, 100 * p.busy, 1e3 * p.p99, p.step, p.ceiling,
             ", ".join(f"{step} {n}" for step, n in p.instances.items())]
            for rate, p in made
        ],
    )  # fmt: skip
    page.text(
        f"Checked with a real load ({measured['runner']}, {measured['servers']} thread, {measured['requests']} clips "
        f"at random times, {measured['rate']:.2f} clips/s): 'during' uses the service times of the load itself, "
        "'simulated' draws from them, 'replayed' is a line with the load's own arrivals and service times."
    )
    columns = ["predicted", "predicted_during", "simulated", "replayed", "measured"]
    page.table(
        ["response", "predicted before", "predicted during", "simulated", "replayed", "measured"],
        [
            [f"{name} ms", *(measured[f"{name}_ms"][key] for key in columns)]
            for name in ("mean", "p99")
        ],
    )  # fmt: skip
    before = Service(measured["service_ms"]["during"] / 1e3, measured["service_ms"]["cv2"])
    page.picture("load", plots.load_curve(before, (1, 2, 4), response, measured), "p99 against load")


def add_load(page: Page, found: Mapping[str, Any]) -> None:
    """Throughput against load."""
    page.text(
        f"MLPerf LoadGen's Server scenario, {found['seconds']:g} s at each rate, on the Triton ensemble and the local "
        "pipeline: clips arrive at random; a rate is a share of what the same system reaches Offline."
    )
    names = ("rate", "completed", "p50_ms", "p90_ms", "p99_ms")
    page.table(
        ["system", "clips/s asked", "completed", "p50 ms", "p90 ms", "p99 ms"],
        [[name, *(point[n] for n in names)] for name, system in found["systems"].items() for point in system["points"]],
    )
    page.picture("throughput", plots.throughput(found["systems"]), "Latency against load; dotted: Offline")


def add_serving(page: Page, paths: Sequence[Path]) -> None:
    """Whatever bench/serving.py wrote, as tables: an entry of entries becomes one with a row for each."""
    for path in paths:
        try:
            content = json_library.loads(path.read_text())
            if not isinstance(content, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as error:
            raise UserError(
                f"--serving {path} cannot be read ({error}); give a JSON file of bench/serving.py"
            ) from error
        head = content.pop("header", {})
        page.text(f"{path.name}, commit {head.get('commit', 'unknown')}")
        add_entries(page, content)


def add_entries(page: Page, content: Mapping[str, Any]) -> None:
    """Plain values in one table, each entry of entries in one of its own."""
    plain = {name: value for name, value in content.items() if not isinstance(value, dict)}
    if plain:
        page.table(["what", "value"], [[name, _plain(value)] for name, value in plain.items()])
    for name, value in content.items():
        if not isinstance(value, dict):
            continue
        page.text(name)
        rows = {key: row for key, row in value.items() if isinstance(row, dict)}
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        if rows:
            cells = [[key, *(_plain(row.get(column)) for column in columns)] for key, row in rows.items()]
            page.table([name, *columns], cells)
        if rest := [[key, _plain(item)] for key, item in value.items() if key not in rows]:
            page.table(["what", "value"], rest)


def _plain(value: Any) -> Cell:
    return value if value is None or isinstance(value, str | int | float) else json_library.dumps(value)


def add_overlays(page: Page, source: Source, clips: int) -> None:
    """The truth beside what the reference and the fast path find."""
    page.heading("Side by side")
    preset, found = source.preset(), backends(source)
    names = source.names() if source.random() else WORLD.names
    fast = fastest(found)
    slow_options = Options(merge_iou=0.95) if source.random() else PLAIN
    pipelines = {
        "reference": Pipeline(preset, found[EAGER].open(), slow_options),
        "sounding": Pipeline(preset, found[fast].open(), Options(proposals=Proposals.SOUNDING)),
        "all switches": Pipeline(preset, found[fast].open(), ALL),
    }
    vocabulary = pipelines["reference"].embed_names(names)
    if source.random():
        page.text("Random weights: what is found means nothing, the path is the real one.")
    for number, clip in enumerate(world_clips(2000, clips)):
        maps: dict[str, NDArray[np.integer]] = {} if source.random() else {"truth": clip.label_map}
        for name, pipeline in pipelines.items():
            maps[name] = pipeline(clip.frames, clip.waveform, vocabulary).label_map.numpy(force=True)
        page.picture(f"clip_{number}", plots.overlays(clip.frames, maps, names), f"Clip {clip.name}, the third second")


@command
def main(
    engines: Annotated[Path, typer.Option(help="Folder that build_engines.py wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write; files of an earlier report are replaced.")],
    weights: Annotated[list[Path] | None, typer.Option(help="The files that the engines were built from.")] = None,
    serving: Annotated[list[Path] | None, typer.Option(help="JSON file of bench/serving.py; several times.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few clips and rounds: to see that all works.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile too; it takes minutes.")] = False,
) -> None:
    """Measure everything and write the report."""
    start, console = time.monotonic(), Console(stderr=True)
    source = Source(engines, tuple(weights or ()))
    preset, head = source.preset(), header()
    tiny, large_on_cpu = preset.name == "tiny", preset.name != "tiny" and not torch.cuda.is_available()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made ({error.strerror}); give another folder") from error
    page = Page(f"ovavss bench: {preset.name}", out)
    page.heading("Serving")
    add_serving(page, serving or [])  # first, because a wrong file should be told of before the long work
    tail = page.markdown[1:], page.html[1:]
    del page.markdown[1:], page.html[1:]

    machine, versions = head["machine"], head["versions"]
    page.table(
        ["machine", ""],
        [*([key, value if value is not None else "none"] for key, value in machine.items()), ["commit", head["commit"]],
         ["time", head["time"]], ["versions", ", ".join(f"{name} {v}" for name, v in versions.items())]],
    )  # fmt: skip
    if not machine["gpu"]:
        page.text("There is no GPU here: its rows say so. The same command on a machine with one fills them.")
    console.rule("speed-ups")
    many, rounds = (1, 2) if large_on_cpu else (200 if tiny and not quick else 8, 15)
    rounds = 1 if quick else rounds
    group, rows = (40 if many == 200 else 4), (LARGE_ROWS if large_on_cpu else None)
    speedups = run_rows(source, console, many, group, rows, warm_up=not large_on_cpu)
    write_json(out / "speedups.json", speedups)
    add_speedups(page, speedups)
    console.rule("latency")
    latency = run_latency(source, console, rounds, None, True, not quick, compile)
    write_json(out / "latency.json", latency)
    add_latency(page, latency)
    console.rule("parity")
    options = Options(merge_iou=0.95) if source.random() else Options()
    parity = run_parity(source, console, many, options=options)
    write_json(out / "parity.json", parity)
    add_parity(page, parity)
    console.rule("capacity")
    measured = check(source, 1, 0.6, 1200 if many == 200 else 30 if not large_on_cpu else 6)
    write_json(out / "capacity.json", header() | {"check": measured})
    add_capacity(page, latency, measured, (0.5, 2, 8, 32))
    page.markdown += tail[0]
    page.html += tail[1]
    console.rule("serving")
    if large_on_cpu:
        page.text("Load on a server is not measured for a large preset on a CPU: a clip takes many seconds.")
    else:
        try:
            short = (1, 8, LOADS[:1]) if quick else (25, 50, LOADS)
            load = measure_load(engines, out / "serving", *short)
            write_json(out / "load.json", load)
            add_load(page, load)
        except UserError as error:
            page.text(f"Load on a server was not measured: {error}")
    console.rule("side by side")
    add_overlays(page, source, 4 if tiny and not quick else 2)
    page.text(f"Made in {(time.monotonic() - start) / 60:.1f} minutes.")
    page.write()
    print(f"wrote {out / 'report.html'} and {out / 'report.md'} in {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    typer.run(main)
