"""The whole clip, one switch at a time: time, crops and mIoU of each against plain PyTorch, and of all together.

    python bench/speedups.py --engines DIR [--num-clips 200] [--rows plain,onnx+op,together] [--json FILE]

The reference is eager PyTorch in float32 with the published code's options, the masks of all heads, and every mask
upsampled. All rows take turns on the same held-out clips, group by group, so that other load on the machine meets them
alike: compare ratios. Engines with random weights have no mIoU; their rows show how far the label maps agree with the
reference's.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from bench.backends import EAGER, NO_GPU, NO_OPERATOR, NOT_BUILT, BackendConfig, Runners, Source, backends, fastest
from bench.measuring import Cell, Table, header, ratio, timed
from bench.options import EnginesOption, JsonOption, NumClipsOption, SeedOption, WeightsOption, run
from bench.parity import MEASURES, Percents, miou, share_of
from ovavss.errors import UserError
from ovavss.evaluation.evaluate import WORLD, EvaluationClip, world_clips
from ovavss.evaluation.metric import ConfusionMatrix
from ovavss.files import write_json
from ovavss.models.ov_avss.presets import USSLM_GRAPH, Preset, Proposals
from ovavss.msda import ms_deform_attn
from ovavss.msda.libraries import custom_op_library
from ovavss.pipeline.pipeline import Clip, Pipeline, Segmentation
from ovavss.pipeline.steps import Options
from plugins.msdeform_attn.core import Core

PLAIN = Options(skip_empty_masks=False)
SOUNDING = replace(PLAIN, proposals=Proposals.SOUNDING)
FEW = replace(SOUNDING, sound_threshold=0.003, confidence_threshold=0.9, merge_iou=0.9)
ALL = replace(FEW, named_only=True, skip_empty_masks=True)
MIN_TURN, MAX_CALLS = 1.0, 3  # seconds: a group that takes less is run again, but not more often
Run = Callable[[Sequence[Clip]], list[Segmentation]]


@dataclass
class Row:
    """A switch: `start` loads what it needs and returns how clips are run with it. `missing` says why it cannot be
    measured here. `compiles`: its first clip takes seconds more."""

    name: str
    what: str
    start: Callable[[], Run]
    missing: str = ""
    compiles: bool = False
    seconds: list[float] = field(default_factory=list)
    label_maps: list[np.ndarray] = field(default_factory=list)
    crops: int = 0


@contextmanager
def attention_kernel(form: str) -> Iterator[None]:
    """Eager PyTorch with deformable attention by our CPU kernel, in its plain or fused form."""
    operator = custom_op_library()
    if operator is None:
        raise UserError("the attention kernel is not built; run `make plugins`")
    core, threads = Core(operator.with_name("libovavss_msdeform_attn.so")), torch.get_num_threads()
    name = "ms_deform_attn_fused" if form == "fused" else "ms_deform_attn"
    kernel, eager = (core.fused if form == "fused" else core.plain), getattr(ms_deform_attn, name)

    def ours(value, shapes, *rest):  # type: ignore[no-untyped-def]
        arrays = [tensor.contiguous().numpy() for tensor in rest]
        found = kernel(value.contiguous().numpy(), np.asarray(shapes, np.int64), *arrays, threads=threads)
        return torch.from_numpy(found)

    try:
        setattr(ms_deform_attn, name, ours)
        yield
    finally:
        setattr(ms_deform_attn, name, eager)


class Rows:
    """Makes the rows; every runtime is loaded once."""

    def __init__(self, preset: Preset, found: dict[str, BackendConfig], names: Sequence[str]) -> None:
        self.preset, self.found = preset, found
        self.runners: dict[str, Runners] = {}
        self.vocabulary = self.pipeline(EAGER, PLAIN).embed_names(names)

    def pipeline(self, backend: str, options: Options) -> Pipeline:
        """A pipeline on a runtime; eager PyTorch with the masks of all heads, as published."""
        if backend not in self.runners:
            self.runners[backend] = self.found[backend].open()
            if backend == EAGER:
                self.runners[backend][USSLM_GRAPH].module.last_only = False  # type: ignore[attr-defined]
        return Pipeline(self.preset, self.runners[backend], options)

    def one_by_one(self, pipeline: Pipeline) -> Run:
        """Clip after clip."""
        return lambda clips: [pipeline(*clip, self.vocabulary) for clip in clips]

    def each(self, backend: str, options: Options) -> Callable[[], Run]:
        """A row's `start` on a runtime."""
        return lambda: self.one_by_one(self.pipeline(backend, options))

    def last_only(self) -> Run:
        """Eager PyTorch of its own, with the masks of the last head only."""
        return self.one_by_one(Pipeline(self.preset, self.found[EAGER].open(), PLAIN))

    def kernel(self, form: str) -> Run:
        """Eager PyTorch with our attention kernel."""
        call = self.each(EAGER, PLAIN)()

        def with_kernel(clips: Sequence[Clip]) -> list[Segmentation]:
            with attention_kernel(form):
                return call(clips)

        return with_kernel

    def batches(self) -> Run:
        """CLIP over the crops of several clips."""
        pipeline = self.pipeline(EAGER, PLAIN)
        return lambda clips: pipeline.run_batch(clips, self.vocabulary)

    def stream(self, pipeline: Pipeline, at_once: int) -> Run:
        """Clips `at_once`, the sound of the next meanwhile."""
        return lambda clips: list(pipeline.stream(clips, self.vocabulary, at_once, overlap=True))

    def make(self) -> list[Row]:
        """All rows; the plain one first, all together last. Nothing is loaded yet."""
        switches: tuple[tuple[str, str, Options], ...] = (
            ("plain", "eager PyTorch, published options", PLAIN),
            ("select", "upsample only masks that can matter, a query once", replace(PLAIN, skip_empty_masks=True)),
            ("named", "masks only for names above the threshold", replace(PLAIN, named_only=True)),
            ("sounding", "proposals = sounding", SOUNDING),
            ("low score", "proposals = sounding, with a score over 0.003", replace(SOUNDING, sound_threshold=0.003)),
            ("identical", "one crop for queries with the same pixels", replace(PLAIN, merge_iou=1.0)),
            ("merged", "one crop for queries with IoU over 0.8", replace(PLAIN, merge_iou=0.8)),
            ("one frame", "one crop a query: its most confident frame", replace(PLAIN, frames_per_query=1)),
            ("early exit", "frames until a name has probability 0.9", replace(PLAIN, confidence_threshold=0.9)),
            ("few crops", "sounding over 0.003, early exit, one crop for IoU over 0.9", FEW),
        )
        rows = [Row(name, what, self.each(EAGER, options)) for name, what, options in switches]
        kernel = "" if custom_op_library() else NO_OPERATOR
        rows += [
            Row("heads", "masks of the last head only; earlier ones at the size of attention", self.last_only),
            Row("clip batch", "CLIP batches over several clips", self.batches),
            Row("overlap", "sound of the next clip meanwhile", lambda: self.stream(self.pipeline(EAGER, PLAIN), 1)),
            Row("plain op", "our attention kernel in PyTorch, plain form", lambda: self.kernel("plain"), kernel),
            Row("fused op", "our attention kernel in PyTorch, fused form", lambda: self.kernel("fused"), kernel),
        ]
        for key, backend in self.found.items():
            if key != EAGER and backend.missing != NOT_BUILT:
                what = "the exported graphs" + (" with our operator" if key.endswith("+op") else "")
                rows.append(Row(key, what, self.each(key, PLAIN), backend.missing))
        rows.append(self.without_cuda_graphs())
        # On a CPU a clip leaves cores idle between the graphs; TensorRT's engines take one clip at a time.
        best, gpu = fastest(self.found), torch.cuda.is_available()
        at_once, batch = (1, 1) if gpu else ((os.cpu_count() or 1) + 1, 4)
        together = replace(ALL, localizer_batch=batch)
        what = "the same, sound meanwhile" if gpu else f"the same, {at_once} at once, localizer in batches of {batch}"
        rows += [
            Row("one by one", f"{best}, few crops, select, named", self.each(best, ALL), compiles=True),
            Row("together", what, lambda: self.stream(self.one_thread(best, together), at_once), compiles=True),
        ]
        return rows

    def without_cuda_graphs(self) -> Row:
        """TensorRT's runner records CUDA graphs; the row beside its own shows what that is worth."""
        usable = [key for key in ("tensorrt-fp16", "tensorrt") if not self.found[key].missing]

        def start() -> Run:
            runners = self.found[usable[0]].open()
            for runner in runners.values():
                runner.cuda_graphs = False  # type: ignore[attr-defined]
            return self.one_by_one(Pipeline(self.preset, runners, PLAIN))

        why = "" if usable else NOT_BUILT if torch.cuda.is_available() else NO_GPU
        return Row("no cuda graphs", "TensorRT's work not recorded as CUDA graphs", start, why)

    def one_thread(self, backend: str, options: Options) -> Pipeline:
        """Its own sessions, each of one thread, for clips that run at the same time."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return Pipeline(self.preset, self.found[backend].open(), options)
        finally:
            torch.set_num_threads(threads)


def measure(
    rows: list[Row], clips: list[EvaluationClip], group: int, warm_up: bool, progress: Callable[[], object]
) -> None:
    """All rows in turn on each group of clips, the quick ones several times; before, one clip as a warm-up, and a whole
    group for those that compile: CLIP's batches have several sizes."""
    runs = [row.start() for row in rows]
    groups = [clips[i : i + group] for i in range(0, len(clips), group)]
    for number, some in enumerate([groups[0], *groups]):
        for row, call in zip(rows, runs):
            progress()
            if number == 0 and not (warm_up or row.compiles):
                continue
            given = some if number > 0 or row.compiles else some[:1]
            once = partial(timed, partial(call, [(clip.frames, clip.waveform) for clip in given]))
            seconds, found = once()
            if number == 0:
                continue
            turn = [seconds]
            while sum(turn) < MIN_TURN and len(turn) < MAX_CALLS:
                turn.append(once()[0])
            row.seconds.append(float(np.median(turn)))
            row.crops += sum(one.crops for one in found)
            row.label_maps += [one.label_map.numpy(force=True) for one in found]


def quality(label_maps: Sequence[np.ndarray], clips: Sequence[EvaluationClip]) -> Percents:
    """base, novel, harmonic and mean IoU in percent; None where no class of a group occurs."""
    matrix = ConfusionMatrix(len(WORLD.names) + 1)
    for label_map, clip in zip(label_maps, clips):
        matrix.update_clip(clip.label_map, label_map, sorted(clip.labels))
    return miou(matrix.scores(WORLD.base_ids, WORLD.novel_ids))


def figures(row: Row, plain: Row, clips: list[EvaluationClip], random: bool) -> dict[str, Any]:
    """One row of the table as plain numbers."""
    made: dict[str, Any] = {"name": row.name, "what": row.what, "missing": row.missing}
    if row.missing:
        return made
    pairs = list(zip(plain.label_maps, row.label_maps))
    made |= {
        "seconds_per_clip": sum(row.seconds) / len(clips),
        "speed_up": ratio(plain.seconds, row.seconds),
        "crops_per_clip": row.crops / len(clips),
        "fewer_crops": plain.crops / row.crops if row.crops else None,
        "agreement": 100 * sum(int((a == b).sum()) for a, b in pairs) / max(sum(a.size for a, _ in pairs), 1),
        "miou": None if random else quality(row.label_maps, clips),
    }
    if not random:
        made["share"] = share_of(made["miou"], quality(plain.label_maps, clips))
    return made


def speedups_table(found: Mapping[str, Any]) -> Table:
    """The rows of `run_rows` as printed."""
    rows: list[list[Cell]] = []
    for row in found["rows"]:
        if row["missing"]:
            rows.append([row["name"], row["missing"], *[None] * 10])
            continue
        numbers = [row[key] for key in ("seconds_per_clip", "speed_up", "crops_per_clip", "fewer_crops")]
        scores = [(row["miou"] or {}).get(measure) for measure in MEASURES]
        rows.append([row["name"], row["what"], *numbers, *scores, row.get("share", {}).get("mean"), row["agreement"]])
    columns = ["switch", "what", "s/clip", "x faster", "crops/clip", "x fewer", *MEASURES, "mean % of reference",
               "% same"]  # fmt: skip
    load = found["machine"]["load"]
    return Table(f"{found['preset']}: {found['clips']} clips; load of the machine before: {load}", columns, rows)


def run_rows(
    source: Source,
    console: Console,
    clips: int,
    group: int,
    names: str | None = None,
    side: int = 96,
    seed: int = 2000,
    warm_up: bool = True,
) -> dict[str, Any]:
    """Measure and return all that the JSON file holds."""
    models, preset = source.models(), source.preset()
    rows = Rows(preset, backends(source, models), source.names()).make()
    if names is not None:
        wanted = ["plain", *(name.strip() for name in names.split(","))]
        if unknown := sorted(set(wanted) - {row.name for row in rows}):
            raise UserError(f"--rows '{unknown[0]}' is unknown; choose of {','.join(row.name for row in rows)}")
        rows = [row for row in rows if row.name in wanted]
    present = [row for row in rows if not row.missing]
    given = list(world_clips(seed, clips, size=(side, side)))
    with Progress(console=console) as progress:
        task = progress.add_task("measuring", total=len(present) * (1 + -(-clips // group)))
        measure(present, given, group, warm_up, lambda: progress.advance(task))
    random = source.random() or preset.vocabulary != "sounding_shapes"
    head = header() | {"preset": preset.name, "clips": clips, "group": group, "seed": seed, "size": [side, side]}
    return head | {"random_weights": random, "rows": [figures(row, rows[0], given, random) for row in rows]}


def main(
    engines: EnginesOption,
    weights: WeightsOption = None,
    num_clips: NumClipsOption = 200,
    group: Annotated[int, typer.Option(min=1, help="Clips a turn.")] = 4,
    rows: Annotated[str | None, typer.Option(help="Only these switches, joined by commas.")] = None,
    side: Annotated[int, typer.Option(min=16, help="Height and width of the frames.")] = 96,
    seed: SeedOption = 2000,
    warm_up: Annotated[bool, typer.Option(help="One clip of each switch before the clock starts.")] = True,
    json: JsonOption = None,
) -> None:
    """Time and mIoU of each speed-up of the whole clip, alone and together."""
    source = Source.of(engines, weights)
    found = run_rows(source, Console(stderr=True), num_clips, group, rows, side, seed, warm_up)
    speedups_table(found).print(170)
    if json is not None:
        write_json(json, found)


if __name__ == "__main__":
    run(main)
