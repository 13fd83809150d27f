"""The whole clip, one switch at a time: time, crops and mIoU of each against plain PyTorch, and of all together.

    python bench/speedups.py --engines DIR [--clips 200] [--rows plain,onnx+op,together] [--json FILE]

The reference is eager PyTorch in float32 with the published code's options, the masks of all heads, and every mask
upsampled. All rows take turns on the same clips of a held-out world, group by group, so that other load on the machine
meets them alike: compare ratios. Engines with random weights have no mIoU; their rows show how far the label maps agree
with the reference's.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "plugins" / "msdeform_attn")]

from backends import EAGER, NO_GPU, NOT_BUILT, BackendConfig, Runners, Source, backends, fastest  # noqa: E402
from core import Core  # noqa: E402
from measuring import header, ratio, timed  # noqa: E402

from ovavss.commands.options import command  # noqa: E402
from ovavss.errors import UserError  # noqa: E402
from ovavss.evaluation.evaluate import WORLD, EvaluationClip, world_clips  # noqa: E402
from ovavss.evaluation.metric import ConfusionMatrix  # noqa: E402
from ovavss.files import write_json  # noqa: E402
from ovavss.models.ov_avss.presets import (  # noqa: E402
    USSLM_GRAPH,
    Preset,
    Proposals,
)
from ovavss.msda import ms_deform_attn  # noqa: E402
from ovavss.msda.libraries import custom_op_library  # noqa: E402
from ovavss.pipeline.pipeline import Clip, Options, Pipeline, Segmentation  # noqa: E402

PLAIN = Options(skip_empty_masks=False)
SOUNDING = replace(PLAIN, proposals=Proposals.SOUNDING)
FEW = replace(SOUNDING, sound_threshold=0.003, confidence_threshold=0.9, merge_iou=0.9)
ALL = replace(FEW, named_only=True, skip_empty_masks=True)
SECONDS, TIMES = 1.0, 3  # a group that takes less is run again, but not more often
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
    ours, eager = ms_deform_attn.ms_deform_attn_fused, ms_deform_attn.ms_deform_attn

    def fused(value, shapes, references, offsets, logits):  # type: ignore[no-untyped-def]
        arrays = [tensor.contiguous().numpy() for tensor in (references, offsets, logits)]
        found = core.fused(value.contiguous().numpy(), np.asarray(shapes, np.int64), *arrays, threads=threads)
        return torch.from_numpy(found)

    def plain(value, shapes, locations, weights):  # type: ignore[no-untyped-def]
        arrays = [tensor.contiguous().numpy() for tensor in (locations, weights)]
        found = core.plain(value.contiguous().numpy(), np.asarray(shapes, np.int64), *arrays, threads=threads)
        return torch.from_numpy(found)

    try:
        if form == "fused":
            ms_deform_attn.ms_deform_attn_fused = fused
        else:
            ms_deform_attn.ms_deform_attn = plain
        yield
    finally:
        ms_deform_attn.ms_deform_attn_fused, ms_deform_attn.ms_deform_attn = ours, eager


class Rows:
    """Makes the rows; every runtime is loaded once."""

    def __init__(self, preset: Preset, found: dict[str, BackendConfig], names: Sequence[str]) -> None:
        self.preset, self.found = preset, found
        self.runners: dict[str, Runners] = {}
        self.vocabulary = self.pipeline(EAGER, PLAIN).embed_names(names)

    def pipeline(self, backend: str, options: Options) -> Pipeline:
        if backend not in self.runners:
            self.runners[backend] = self.found[backend].open()
            if backend == EAGER:
                self.runners[backend][USSLM_GRAPH].module.last_only = False  # type: ignore[attr-defined]
        return Pipeline(self.preset, self.runners[backend], options)

    def _last_only(self) -> Run:
        pipeline = Pipeline(self.preset, self.found[EAGER].open(), PLAIN)
        return lambda clips: [pipeline(*clip, self.vocabulary) for clip in clips]

    def _each(self, backend: str, options: Options) -> Callable[[], Run]:
        def start() -> Run:
            pipeline = self.pipeline(backend, options)
            return lambda clips: [pipeline(*clip, self.vocabulary) for clip in clips]

        return start

    def _kernel(self, form: str) -> Run:
        run = self._each(EAGER, PLAIN)()

        def with_kernel(clips: Sequence[Clip]) -> list[Segmentation]:
            with attention_kernel(form):
                return run(clips)

        return with_kernel

    def _batches(self) -> Run:
        pipeline = self.pipeline(EAGER, PLAIN)
        return lambda clips: pipeline.run_batch(clips, self.vocabulary)

    def _stream(self, pipeline: Pipeline, at_once: int) -> Run:
        return lambda clips: list(pipeline.stream(clips, self.vocabulary, at_once, overlap=True))

    def make(self) -> list[Row]:
        """All rows; the plain one first, all together last. Nothing is loaded yet."""
        rows = [Row("plain", "eager PyTorch, published options", self._each(EAGER, PLAIN))]
        for name, what, options in (
            ("select", "upsample only masks that can matter, a query once", replace(PLAIN, skip_empty_masks=True)),
            ("named", "masks only for names above the threshold", replace(PLAIN, named_only=True)),
            ("sounding", "proposals = sounding", SOUNDING),
            ("faint", "proposals = sounding, with a score over 0.003", replace(SOUNDING, sound_threshold=0.003)),
            ("identical", "one crop for queries with the same pixels", replace(PLAIN, merge_iou=1.0)),
            ("merged", "one crop for queries with IoU over 0.8", replace(PLAIN, merge_iou=0.8)),
            ("one frame", "one crop a query: its most confident frame", replace(PLAIN, frames_per_query=1)),
            ("sure", "frame after frame until a name has probability 0.9", replace(PLAIN, confidence_threshold=0.9)),
            ("few crops", "sounding over 0.003, until sure, one crop for IoU over 0.9", FEW),
        ):
            rows.append(Row(name, what, self._each(EAGER, options)))
        kernel = "" if custom_op_library() else "the kernel is not built: `make plugins`"
        rows += [
            Row("heads", "masks of the earlier heads at the size of their attention", self._last_only),
            Row("clip batch", "CLIP batches over several clips", self._batches),
            Row("overlap", "sound of the next clip meanwhile", lambda: self._stream(self.pipeline(EAGER, PLAIN), 1)),
            Row("plain op", "our attention kernel in PyTorch, plain form", lambda: self._kernel("plain"), kernel),
            Row("fused op", "our attention kernel in PyTorch, fused form", lambda: self._kernel("fused"), kernel),
        ]
        for key, backend in self.found.items():
            if key != EAGER and backend.missing != NOT_BUILT:
                what = "the exported graphs" + (" with our operator" if key.endswith("+op") else "")
                rows.append(Row(key, what, self._each(key, PLAIN), backend.missing))
        rows.append(self._without_cuda_graphs())
        # On a CPU a clip leaves cores idle between the graphs; TensorRT's engines take one clip at a time.
        best, gpu = fastest(self.found), torch.cuda.is_available()
        at_once, batch = (1, 1) if gpu else ((os.cpu_count() or 1) + 1, 4)
        together = replace(ALL, localizer_batch=batch)
        what = "the same, sound meanwhile" if gpu else f"the same, {at_once} at once, localizer in batches of {batch}"
        rows += [
            Row("one by one", f"{best}, few crops, select, named", self._each(best, ALL), compiles=True),
            Row("together", what, lambda: self._stream(self._one_thread(best, together), at_once), compiles=True),
        ]
        return rows

    def _without_cuda_graphs(self) -> Row:
        """TensorRT's runner records CUDA graphs; the row beside its own shows what that is worth."""
        usable = [key for key in ("tensorrt-fp16", "tensorrt") if not self.found[key].missing]

        def start() -> Run:
            runners = self.found[usable[0]].open()
            for runner in runners.values():
                runner.cuda_graphs = False  # type: ignore[attr-defined]
            pipeline = Pipeline(self.preset, runners, PLAIN)
            return lambda clips: [pipeline(*clip, self.vocabulary) for clip in clips]

        why = "" if usable else NOT_BUILT if torch.cuda.is_available() else NO_GPU
        return Row("no cuda graphs", "TensorRT's work not recorded as CUDA graphs", start, why)

    def _one_thread(self, backend: str, options: Options) -> Pipeline:
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
        for row, run in zip(rows, runs):
            if number == 0 and not (warm_up or row.compiles):
                progress()
                continue
            given = some if number > 0 or row.compiles else some[:1]
            pairs = [(clip.frames, clip.waveform) for clip in given]
            seconds, found = timed(partial(run, pairs))
            if number > 0:
                turn = [seconds]
                while sum(turn) < SECONDS and len(turn) < TIMES:
                    turn.append(timed(partial(run, pairs))[0])
                row.seconds.append(float(np.median(turn)))
                row.crops += sum(one.crops for one in found)
                row.label_maps += [one.label_map.numpy(force=True) for one in found]
            progress()


def quality(label_maps: Sequence[np.ndarray], clips: Sequence[EvaluationClip]) -> dict[str, float | None]:
    """base, novel, harmonic and mean IoU in percent; None where no class of a group occurs."""
    matrix = ConfusionMatrix(len(WORLD.names) + 1)
    for label_map, clip in zip(label_maps, clips):
        matrix.update_clip(clip.label_map, label_map, sorted(clip.labels))
    scores = matrix.scores(WORLD.base_ids, WORLD.novel_ids)
    values = {name: 100 * getattr(scores, name) for name in ("base", "novel", "harmonic", "mean")}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def agreement(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """Share of pixels with the same label in two lists of label maps, in percent."""
    same = sum(int((a == b).sum()) for a, b in zip(one, other))
    return 100 * same / max(sum(a.size for a in one), 1)


def figures(row: Row, plain: Row, clips: list[EvaluationClip], random: bool) -> dict[str, Any]:
    """One row of the table as plain numbers."""
    made: dict[str, Any] = {"name": row.name, "what": row.what, "missing": row.missing}
    if row.missing:
        return made
    made |= {
        "seconds_per_clip": sum(row.seconds) / len(clips),
        "speed_up": ratio(plain.seconds, row.seconds),
        "crops_per_clip": row.crops / len(clips),
        "fewer_crops": plain.crops / row.crops if row.crops else None,
        "agreement": agreement(plain.label_maps, row.label_maps),
        "miou": None if random else quality(row.label_maps, clips),
    }
    if not random:
        reference = quality(plain.label_maps, clips)
        made["share"] = {name: 100 * made["miou"][name] / value if value else None for name, value in reference.items()}
    return made


def table(found: list[dict[str, Any]], title: str) -> Table:
    """The figures as printed."""
    made = Table(title=title)
    for name in ("switch", "what", "s/clip", "x faster", "crops/clip", "x fewer", "base", "novel", "mean", "% of ref",
                 "% same"):  # fmt: skip
        made.add_column(name, justify="left" if name in ("switch", "what") else "right")
    for row in found:
        if row["missing"]:
            made.add_row(row["name"], row["missing"], *["-"] * 9, style="dim")
            continue
        miou = row["miou"] or {}
        share = (row.get("share") or {}).get("mean")
        cells = [row["seconds_per_clip"], row["speed_up"], row["crops_per_clip"], row["fewer_crops"]]
        cells += [miou.get("base"), miou.get("novel"), miou.get("mean"), share, row["agreement"]]
        made.add_row(row["name"], row["what"], *("-" if cell is None else f"{cell:.2f}" for cell in cells))
    return made


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
        known = {row.name for row in rows}
        for name in wanted:
            if name not in known:
                raise UserError(f"--rows '{name}' is unknown; choose of {','.join(row.name for row in rows)}")
        rows = [row for row in rows if row.name in wanted]
    present = [row for row in rows if not row.missing]
    given = list(world_clips(seed, clips, size=(side, side)))
    with Progress(console=console) as progress:
        task = progress.add_task("measuring", total=len(present) * (1 + -(-clips // group)))
        measure(present, given, group, warm_up, lambda: progress.advance(task))
    random = source.random() or preset.vocabulary != "sounding_shapes"
    head = header() | {"preset": preset.name, "clips": clips, "group": group, "seed": seed, "size": [side, side]}
    return head | {"random_weights": random, "rows": [figures(row, rows[0], given, random) for row in rows]}


@command
def main(
    engines: Annotated[Path, typer.Option(help="Folder that build_engines.py wrote.")],
    weights: Annotated[list[Path] | None, typer.Option(help="The files that the engines were built from.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Held-out clips.")] = 200,
    group: Annotated[int, typer.Option(min=1, help="Clips a turn.")] = 4,
    rows: Annotated[str | None, typer.Option(help="Only these switches, joined by commas.")] = None,
    side: Annotated[int, typer.Option(min=16, help="Height and width of the frames.")] = 96,
    seed: Annotated[int, typer.Option(help="World of the clips.")] = 2000,
    warm_up: Annotated[bool, typer.Option(help="One clip of each switch before the clock starts.")] = True,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Time and mIoU of each speed-up of the whole clip, alone and together."""
    console = Console(stderr=True)
    found = run_rows(Source(engines, tuple(weights or ())), console, clips, group, rows, side, seed, warm_up)
    title = f"{found['preset']}: {clips} clips; load of the machine before: {found['machine']['load']}"
    Console(width=170).print(table(found["rows"], title))
    if json is not None:
        write_json(json, found)


if __name__ == "__main__":
    typer.run(main)
