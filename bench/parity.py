"""mIoU parity: every format, precision and server against the reference, eager PyTorch in float32.

    python bench/parity.py --engines DIR [--runners onnx+op,torchscript] [--url grpc://host:8001] [--data FOLDER]

On held-out clips of Sounding Shapes, or of AVSBench-OV where its folder is given: base, novel, harmonic and mean IoU,
pixels on which the label maps agree, and the classes that change most. The gate: each of the four measures is at least
99.9 % of the reference's, else the exit status is 1. As published, a class that no clip has counts with IoU 0 once a
single pixel is named so: with few clips that alone can fail the gate, and the row says which class it was. Engines with
random weights have no mIoU; there the gate is that 99.9 % of the pixels agree.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from bench.backends import EAGER, Source, backends, chosen
from bench.measuring import Cell, Table, header
from bench.options import (
    CompileOption,
    EnginesOption,
    JsonOption,
    NumClipsOption,
    RunnersOption,
    SeedOption,
    WeightsOption,
    run,
)
from ovavss.datasets.avsbench_ov import AVSBENCH_OV, AvsbenchTest, CategoryTable, read_categories
from ovavss.errors import UserError
from ovavss.evaluation.evaluate import WORLD, EvaluationClip, avsbench_clips, world_clips
from ovavss.evaluation.metric import ConfusionMatrix, Scores
from ovavss.files import write_json
from ovavss.models.ov_avss.presets import Proposals
from ovavss.pipeline.pipeline import Pipeline
from ovavss.pipeline.steps import Options

GATE = 99.9  # percent of the reference (MLPerf's stricter gate)
MEASURES = ("base", "novel", "harmonic", "mean")
Percents = dict[str, float | None]
Predictor = Callable[[EvaluationClip], NDArray[np.integer]]
"""A clip to its label map [T, H, W]; whatever can do that takes part."""


def miou(scores: Scores) -> Percents:
    """The four measures in percent; None where no class of a group occurs."""
    values = {name: 100 * float(getattr(scores, name)) for name in MEASURES}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def share_of(found: Percents, reference: Percents) -> Percents:
    """Each measure in percent of the reference's; None where that has none, or it is 0."""
    pairs = {name: (found[name], reference[name]) for name in MEASURES}
    return {name: 100 * one / base if one is not None and base else None for name, (one, base) in pairs.items()}


def local_predictor(pipeline: Pipeline, names: Sequence[str]) -> Predictor:
    """The pipeline in this process."""
    vocabulary = pipeline.embed_names(names)
    return lambda clip: pipeline(clip.frames, clip.waveform, vocabulary).label_map.numpy(force=True)


@contextmanager
def server_predictor(url: str, names: Sequence[str], options: Options) -> Iterator[Predictor]:
    """A running server; UserError where it does not answer."""
    from ovavss.serving.client import RemotePipeline

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
        raise UserError("there is no clip to compare on; give a data folder with test clips")
    scores = {name: matrix.scores(table.base_ids, table.novel_ids) for name, matrix in matrices.items()}
    first = next(iter(scores.values()))
    return [_row(name, scores[name], first, 100 * same[name] / pixels, table, random) for name in predictors]


def _row(
    name: str, scores: Scores, reference: Scores, agreement: float, table: CategoryTable, random: bool
) -> dict[str, Any]:
    share = share_of(miou(scores), miou(reference))
    change = 100 * (np.nan_to_num(scores.class_iou) - np.nan_to_num(reference.class_iou))
    labels = ("background", *table.names)
    changed = {labels[i]: round(float(change[i]), 3) for i in np.argsort(-np.abs(change))[:5] if change[i]}
    one_only = np.isnan(scores.class_iou) != np.isnan(reference.class_iou)  # so no clip has it
    alone = [label for label, found in zip(labels, one_only) if found]
    weakest = agreement if random else min((value for value in share.values() if value is not None), default=0.0)
    row = {"name": name, "missing": "", "agreement": agreement, "passed": weakest >= GATE}
    row |= {"classes": changed, "named_by_one": alone}
    return row if random else row | {"miou": miou(scores), "share": share}


def changes(row: Mapping[str, Any], count: int) -> str:
    """The `count` classes that change most, in words; first those that no clip has and only one of both names."""
    alone = [f"{name}: in no clip, named by one of both" for name in row["named_by_one"]]
    changed = [f"{name} {change:+.2f}" for name, change in row["classes"].items() if name not in row["named_by_one"]]
    return ", ".join(alone + changed[:count]) or "none"


def parity_table(found: Mapping[str, Any]) -> Table:
    """The rows of `run_parity` as printed."""
    rows: list[list[Cell]] = []
    for row in found["rows"]:
        if row["missing"]:
            rows.append([row["name"], *[None] * 6, row["missing"], None])
            continue
        scores, share = row.get("miou", {}), [v for v in row.get("share", {}).values() if v is not None]
        quality = [*(scores.get(m) for m in MEASURES), min(share, default=None), row["agreement"]]
        rows.append([row["name"], *quality, changes(row, 2), "passed" if row["passed"] else "FAILED"])
    columns = ["what", *MEASURES, "least % of reference", "% same pixels", "most changed classes", "gate"]
    return Table(f"parity with eager PyTorch float32; the gate is {GATE} %", columns, rows)


def run_parity(
    source: Source, console: Console, clips: int = 200, seed: int = 2000, runners: str | None = None,
    url: str | None = None, data: Path | None = None, options: Options | None = None, compiled: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Compare everything that is present; what the JSON file holds."""
    options, models = options or Options(), source.models()
    total, table = clips, WORLD
    given: Iterable[EvaluationClip] = world_clips(seed, clips)
    if data is not None:
        dataset = AvsbenchTest(data, table=read_categories(data, known=(AVSBENCH_OV, WORLD)))
        table, total, given = dataset.table, len(dataset), avsbench_clips(dataset)
    names = table.names[:8] if source.random() else table.names  # as in Source.names
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


def main(
    engines: EnginesOption,
    weights: WeightsOption = None,
    runners: RunnersOption = None,
    url: Annotated[str | None, typer.Option(help="Also a running server.")] = None,
    data: Annotated[Path | None, typer.Option(help="AVSBench-OV folder. Default: Sounding Shapes.")] = None,
    num_clips: NumClipsOption = 200,
    seed: SeedOption = 2000,
    proposals: Annotated[Proposals, typer.Option(help="Which queries are named.")] = Proposals.ALL,
    compile: CompileOption = False,
    json: JsonOption = None,
) -> None:
    """Compare the label maps and mIoU of everything that is present with eager PyTorch; exit 1 below the gate."""
    source, options = Source.of(engines, weights), Options(proposals=proposals)
    found = run_parity(source, Console(stderr=True), num_clips, seed, runners, url, data, options, compile)
    parity_table(found).print(150)
    if json is not None:
        write_json(json, found)
    if failed := [row["name"] for row in found["rows"] if not row.get("passed", True)]:
        print(f"below the gate of {GATE} %: {', '.join(failed)}", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    run(main)
