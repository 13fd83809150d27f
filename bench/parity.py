"""mIoU parity: every format, precision and server against the reference, eager PyTorch in float32.

    python bench/parity.py --engines DIR [--runners onnx+op,torchscript] [--url grpc://host:8001] [--data FOLDER]

On held-out clips of Sounding Shapes, or of AVSBench-OV where its folder is given: base, novel, harmonic and mean IoU,
pixels on which the label maps agree, and the classes that change most. The gate: each of the four measures is at least
99.9 % of the reference's, else the exit status is 1. As published, a class that no clip has counts with IoU 0 once a
single pixel is named so: with few clips that alone can fail the gate, and the row says which class it was. Engines with
random weights have no mIoU; there the gate is that 99.9 % of the pixels agree.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from backends import EAGER, Source, backends, chosen  # noqa: E402
from measuring import header  # noqa: E402

from ovavss.commands.options import command  # noqa: E402
from ovavss.datasets.avsbench_ov import AVSBENCH_OV, AvsbenchTest, CategoryTable, read_categories  # noqa: E402
from ovavss.errors import UserError  # noqa: E402
from ovavss.evaluation.evaluate import WORLD, EvaluationClip, avsbench_clips, world_clips  # noqa: E402
from ovavss.evaluation.metric import ConfusionMatrix, Scores  # noqa: E402
from ovavss.files import write_json  # noqa: E402
from ovavss.models.ov_avss.presets import Proposals  # noqa: E402
from ovavss.pipeline.pipeline import Options, Pipeline  # noqa: E402
from ovavss.serving.client import RemotePipeline  # noqa: E402

GATE = 99.9  # percent of the reference (MLPerf's stricter gate)
MEASURES = ("base", "novel", "harmonic", "mean")
Predictor = Callable[[EvaluationClip], NDArray[np.integer]]
"""A clip to its label map [T, H, W]; whatever can do that takes part."""


def local_predictor(pipeline: Pipeline, names: Sequence[str]) -> Predictor:
    """The pipeline in this process."""
    vocabulary = pipeline.embed_names(names)
    return lambda clip: pipeline(clip.frames, clip.waveform, vocabulary).label_map.numpy(force=True)


@contextmanager
def server_predictor(url: str, names: Sequence[str], options: Options) -> Iterator[Predictor]:
    """A running server; UserError where it does not answer."""
    with RemotePipeline(url, options) as remote:
        vocabulary = remote.embed_names(names)
        yield lambda clip: remote(clip.frames, clip.waveform, vocabulary).label_map.numpy(force=True)


def compare(
    predictors: dict[str, Predictor],
    clips: Iterable[EvaluationClip],
    table: CategoryTable,
    random: bool,
    progress: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """One row of plain numbers for each predictor; the first is the reference. `random`: the weights are."""
    matrices = {name: ConfusionMatrix(len(table.names) + 1) for name in predictors}
    same, pixels = dict.fromkeys(predictors, 0), 0
    for clip in clips:
        reference: NDArray[np.integer] | None = None
        for name, predict in predictors.items():
            found = np.asarray(predict(clip))
            reference = found if reference is None else reference
            if found.shape != clip.frames.shape[:3]:
                raise UserError(f"{name}: a label map of {found.shape} came for frames of {clip.frames.shape[:3]}")
            same[name] += int((found == reference).sum())
            matrices[name].update_clip(clip.label_map, found, sorted(clip.labels))
            progress()
        pixels += int(np.prod(clip.frames.shape[:3]))
    if not pixels:
        raise UserError("there is no clip to compare on; give --clips of at least 1, or a data folder with test clips")
    scores = {name: matrix.scores(table.base_ids, table.novel_ids) for name, matrix in matrices.items()}
    first = next(iter(scores.values()))
    return [_row(name, scores[name], first, 100 * same[name] / pixels, table, random) for name in predictors]


def _row(
    name: str, scores: Scores, reference: Scores, agreement: float, table: CategoryTable, random: bool
) -> dict[str, Any]:
    miou = {m: _number(100 * getattr(scores, m)) for m in MEASURES}
    share = {m: _number(100 * _ratio(getattr(scores, m), getattr(reference, m))) for m in MEASURES}
    change = 100 * (np.nan_to_num(scores.class_iou) - np.nan_to_num(reference.class_iou))
    labels = ("background", *table.names)
    changed = {labels[i]: round(float(change[i]), 3) for i in np.argsort(-np.abs(change))[:5] if change[i]}
    one_only = np.isnan(scores.class_iou) != np.isnan(reference.class_iou)  # so no clip has it
    alone = [label for label, found in zip(labels, one_only) if found]
    weakest = agreement if random else min((value for value in share.values() if value is not None), default=0.0)
    row = {"name": name, "missing": "", "agreement": agreement, "passed": weakest >= GATE}
    row |= {"classes": changed, "named_by_one": alone}
    return row if random else row | {"miou": miou, "share": share}


def _ratio(value: float, reference: float) -> float:
    """NaN where the reference has no such figure, or it is 0."""
    return value / reference if reference > 0 else np.nan


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def changes(row: dict[str, Any], count: int) -> str:
    """The `count` classes that change most, in words; first those that no clip has and only one of both names."""
    alone = [f"{name}: in no clip, named by one of both" for name in row["named_by_one"]]
    changed = [f"{name} {change:+.2f}" for name, change in row["classes"].items() if name not in row["named_by_one"]]
    return ", ".join(alone + changed[:count]) or "none"


def table_of(rows: list[dict[str, Any]]) -> Table:
    """The rows as printed."""
    made = Table(title=f"parity with eager PyTorch float32; the gate is {GATE} %")
    for column in ("what", *MEASURES, "% of ref.", "% same", "most changed class", "gate"):
        made.add_column(column, justify="left" if column in ("what", "most changed class") else "right")
    for row in rows:
        if row["missing"]:
            made.add_row(row["name"], *["-"] * 6, row["missing"], "-", style="dim")
            continue
        miou, share = row.get("miou", {}), [v for v in row.get("share", {}).values() if v is not None]
        cells = [miou.get(m) for m in MEASURES] + [min(share, default=None), row["agreement"]]
        texts = ["-" if cell is None else f"{cell:.2f}" for cell in cells]
        made.add_row(row["name"], *texts, changes(row, 1), "passed" if row["passed"] else "[red]FAILED[/red]")
    return made


def run_parity(
    source: Source, console: Console, clips: int = 200, seed: int = 2000, runners: str | None = None,
    url: str | None = None, data: Path | None = None, options: Options | None = None, compiled: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Compare everything that is present; what the JSON file holds."""
    options, models = options or Options(), source.models()
    names, total, table = WORLD.names, clips, WORLD
    given: Iterable[EvaluationClip] = world_clips(seed, clips)
    if data is not None:
        dataset = AvsbenchTest(data, table=read_categories(data, known=(AVSBENCH_OV, WORLD)))
        table, total, given = dataset.table, len(dataset), avsbench_clips(dataset)
        names = table.names
    names = names[:8] if source.random() else names  # as in Source.names
    found = chosen(backends(source, models, compiled), runners)
    predictors: dict[str, Predictor] = {}
    for name, backend in found.items():
        if not backend.missing:
            predictors[name] = local_predictor(Pipeline(models.preset, backend.open(), options), names)
    random = source.random() or (data is None and models.preset.vocabulary != "sounding_shapes")
    with ExitStack() as stack:
        if url is not None:
            predictors[f"server {url}"] = stack.enter_context(server_predictor(url, names, options))
        progress = stack.enter_context(Progress(console=console))
        task = progress.add_task("comparing", total=total * len(predictors))
        rows = compare(predictors, given, table, random, lambda: progress.advance(task))
    rows += [{"name": c.name, "missing": c.missing} for c in found.values() if c.missing]
    settings = {"preset": models.preset.name, "clips": total, "seed": None if data else seed, "gate": GATE}
    return header() | settings | {"random_weights": random, "reference": EAGER, "rows": rows}


@command
def main(
    engines: Annotated[Path, typer.Option(help="Folder that build_engines.py wrote.")],
    weights: Annotated[list[Path] | None, typer.Option(help="The files that the engines were built from.")] = None,
    runners: Annotated[str | None, typer.Option(help="Only these, joined by commas.")] = None,
    url: Annotated[str | None, typer.Option(help="Also a running server.")] = None,
    data: Annotated[Path | None, typer.Option(help="AVSBench-OV folder. Default: Sounding Shapes.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Held-out clips of Sounding Shapes.")] = 200,
    seed: Annotated[int, typer.Option(help="World of the clips.")] = 2000,
    proposals: Annotated[Proposals, typer.Option(help="Which queries are named.")] = Proposals.ALL,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile too; it takes minutes.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Compare the label maps and mIoU of everything that is present with eager PyTorch; exit 1 below the gate."""
    console, options = Console(stderr=True), replace(Options(), proposals=proposals)
    source = Source(engines, tuple(weights or ()))
    found = run_parity(source, console, clips, seed, runners, url, data, options, compile)
    Console(width=150).print(table_of(found["rows"]))
    if json is not None:
        write_json(json, found)
    if failed := [row["name"] for row in found["rows"] if not row.get("passed", True)]:
        print(f"below the gate of {GATE} %: {', '.join(failed)}", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
