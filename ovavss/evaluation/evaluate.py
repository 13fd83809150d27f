"""Scores anything that turns clips into label maps: on held-out seeds of the synthetic world, or on AVSBench-OV."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ovavss.datasets.avsbench_ov import AvsbenchTest, CategoryTable
from ovavss.datasets.sounding_shapes.rendering import render
from ovavss.datasets.sounding_shapes.scenes import BASE, CATEGORIES, NOVEL, Kind, sample_scene
from ovavss.errors import UserError
from ovavss.evaluation.avsbench_measures import AvsbenchMeasures
from ovavss.evaluation.metric import ConfusionMatrix, Scores, resize_ground_truth
from ovavss.media.sound import SAMPLE_RATE

Sound = Literal["own", "silent", "swapped"]
WORLD = CategoryTable(CATEGORIES, tuple(c + 1 for c in BASE), tuple(c + 1 for c in NOVEL))
PATCH_SAMPLES = 15_360  # one audio patch of 0.96 s


@dataclass(frozen=True)
class EvaluationClip:
    """A clip with its truth.

    Attributes:
        name: Of the clip.
        frames: uint8 [T, H, W, 3] RGB.
        waveform: float32 [16000 T], 16 kHz mono.
        label_map: Class ids of the truth, [T, H', W']; 0 is the background.
        labels: The ids that may occur in the truth.
    """

    name: str
    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32]
    label_map: NDArray[np.integer]
    labels: frozenset[int]


@dataclass(frozen=True)
class Prediction:
    """What a model finds in a clip.

    Attributes:
        label_map: Class ids, [T, H, W], at the size of the frames; 0 is the background.
        sound_map: float [T, H, W] in [0, 1], where something sounds; None if the model gives none.
    """

    label_map: NDArray[np.integer]
    sound_map: NDArray[np.floating] | None = None


RunClip = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.integer]]
"""frames, waveform -> label map."""


@dataclass
class Evaluation:
    """Scores in [0, 1].

    `scores`: base, novel, harmonic and mean IoU and the IoU of each class; `foreground`: IoU of "something sounds";
    `empty`: share of clips whose whole map is empty; `binary_miou`, `binary_f`: the AVSBench S4 / MS3 measures, NaN
    without sound maps; `matrix`: the confusion matrix.
    """

    clips: int
    scores: Scores
    foreground: float
    empty: float
    binary_miou: float
    binary_f: float
    matrix: ConfusionMatrix = field(repr=False)

    def figures(self) -> dict[str, object]:
        """Everything as plain numbers (in percent), for a JSON file; None where nothing defines the figure."""
        values = {name: value for name, value in asdict(self.scores).items() if name != "class_iou"}
        values |= {name: getattr(self, name) for name in ("foreground", "empty", "binary_miou", "binary_f")}
        figures: dict[str, object] = {"clips": self.clips}
        figures |= {name: _percent(value) for name, value in values.items()}
        return figures | {"class_iou": [_percent(value) for value in self.scores.class_iou.tolist()]}


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else round(100 * value, 2)


def evaluate(
    run: Callable[[EvaluationClip], Prediction],
    clips: Iterable[EvaluationClip],
    table: CategoryTable,
    progress: Callable[[int], object] | None = None,
    keep: Callable[[str, NDArray[np.integer]], object] | None = None,
) -> Evaluation:
    """Run and score clips; `progress` hears how many are done, `keep` gets each clip's name and label map.

    Raises UserError where there is no clip, or a label map is not of the frames' size.
    """
    matrix, measures = ConfusionMatrix(len(table.names) + 1), AvsbenchMeasures()
    done = empty = 0
    for done, clip in enumerate(clips, start=1):
        prediction = run(clip)
        label_map = prediction.label_map
        if label_map.shape != clip.frames.shape[:3]:
            wanted = clip.frames.shape[:3]
            raise UserError(f"clip {clip.name}: a label map of {label_map.shape} came for frames of {wanted}")
        empty += not label_map.any()
        matrix.update_clip(clip.label_map, label_map, sorted(clip.labels))
        if prediction.sound_map is not None:
            measures.update(*_binary(prediction.sound_map, clip))
        if keep is not None:
            keep(clip.name, label_map)
        if progress is not None:
            progress(done)
    if done == 0:
        raise UserError(
            "there is no clip to evaluate; give --num-clips of at least 1, or a data folder that holds test clips"
        )
    counts = matrix.counts
    hit, union = counts[1:, 1:].sum(), counts.sum() - counts[0, 0]
    foreground = float(hit / union) if union else 1.0
    scores = matrix.scores(table.base_ids, table.novel_ids)
    return Evaluation(done, scores, foreground, empty / done, measures.miou(), measures.f_score(), matrix)


def _binary(sound_map: NDArray[np.floating], clip: EvaluationClip) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Soft map and truth at the truth's size."""
    truth = clip.label_map > 0
    if sound_map.shape != truth.shape:
        truth = resize_ground_truth(clip.label_map, 224) > 0
        rows, columns = (np.arange(224) * side // 224 for side in sound_map.shape[1:])
        sound_map = sound_map[:, rows[:, None], columns]
    return sound_map, truth


def world_clips(
    seed: int, clips: int, kind: Kind = "mixed", sound: Sound = "own", size: tuple[int, int] = (96, 96)
) -> Iterator[EvaluationClip]:
    """Clips 0 ... clips - 1 of the world `seed`, base and novel categories in one scene, rendered at (H, W).

    `sound`: the clip's own, digital silence, or the sound of the clip after it; the truth stays that of the clip.
    """
    for index in range(clips):
        clip = render(sample_scene(seed, index, kind=kind), size)
        waveform = clip.waveform
        if sound == "silent":
            waveform = np.zeros(len(clip.frames) * SAMPLE_RATE, np.float32)
        elif sound == "swapped":
            waveform = render(sample_scene(seed, (index + 1) % clips, kind=kind), (16, 16)).waveform
        labels = frozenset(np.unique(clip.label_map).tolist())
        yield EvaluationClip(clip.scene.name, clip.frames, waveform, clip.label_map, labels)


def avsbench_clips(data: AvsbenchTest) -> Iterator[EvaluationClip]:
    """The test clips of a folder in the AVSBench-OV layout; each hears its own audio patches."""
    for index in range(len(data)):
        item = data.item(index)
        samples = len(item.frames) * SAMPLE_RATE
        start = item.patches[0] * PATCH_SAMPLES
        waveform = np.zeros(samples, np.float32)
        heard = item.waveform[start : start + samples]
        waveform[: len(heard)] = heard
        name = f"{item.video}_{item.patches[0]}"
        yield EvaluationClip(name, item.frames, waveform, item.label_map, frozenset(item.clip_labels))


def evaluate_world(
    run_clip: RunClip,
    seed: int,
    clips: int,
    *,
    kind: Kind = "mixed",
    sound: Sound = "own",
    size: tuple[int, int] = (96, 96),
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """`evaluate` on held-out seeds of the synthetic world."""

    def run(clip: EvaluationClip) -> Prediction:
        return Prediction(np.asarray(run_clip(clip.frames, clip.waveform)))

    return evaluate(run, world_clips(seed, clips, kind, sound, size), WORLD, progress)


def worst_confusions(matrix: ConfusionMatrix, names: Sequence[str], count: int = 10) -> list[tuple[str, str, int]]:
    """The pairs (truth, prediction) of classes that are most often taken for one another, in pixels."""
    wrong = matrix.counts.copy()
    np.fill_diagonal(wrong, 0)
    order = wrong.ravel().argsort()[::-1][:count]
    known = ("background", *names)
    pairs = (divmod(int(index), len(wrong)) for index in order)
    return [(known[row], known[column], int(wrong[row, column])) for row, column in pairs if wrong[row, column]]
