"""`import ovavss`: what is public, that it is light, and that it finds what the command finds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ovavss
from ovavss.datasets.sounding_shapes.disk import write_mp4
from ovavss.datasets.sounding_shapes.scenes import sample_scene
from ovavss.models.ov_avss.presets import Proposals
from ovavss.output.results import ClipResult, Detection
from ovavss.pipeline.steps import Options


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mp4(sample_scene(1000, 10), tmp_path_factory.mktemp("face") / "clip.mp4", fps=25)


def test_import_is_light() -> None:
    code = "import sys, ovavss; print(sorted({'torch', 'numpy', 'av', 'onnxruntime', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_public_names_are_no_subpackages() -> None:
    package = Path(ovavss.__file__).parent
    assert all(hasattr(ovavss, name) for name in ovavss.__all__)
    assert not [name for name in ovavss.__all__ if (package / name).exists() or (package / f"{name}.py").exists()]


def test_segment_stream_and_save(video: Path, tmp_path: Path) -> None:
    """The preset finds what the command finds, and writes the same folder but for the settings."""
    segmenter = ovavss.load("tiny", options=Options(proposals=Proposals.SOUNDING))
    result = segmenter.segment(video)
    windows = list(segmenter.stream(video))
    np.testing.assert_array_equal(result.label_maps, np.concatenate([w.label_map[: w.snippets] for w in windows]))
    assert {track.name for track in result.tracks} == {
        result.classes[label - 1] for label in np.unique(result.label_maps) if label
    }
    for track in result.tracks:
        assert track.masks.shape == (len(track.times), *result.size) and track.masks.any((1, 2)).all()
        assert 0 < track.score <= 1

    result.save(tmp_path / "api")
    command = [sys.executable, "-m", "ovavss", "segment", video, "--runner", "torch", "--preset", "tiny"]
    command += ["--proposals", "sounding", "--out", tmp_path / "command"]
    assert subprocess.run([str(part) for part in command], capture_output=True).returncode == 0
    ours, theirs = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("api", "command"))
    assert ours["classes"] == theirs["classes"] and len(ours["frames"]) == len(theirs["frames"])
    # Two processes may sum in another order (threads, memory alignment): scores agree to rounding, the rest exactly.
    for one, other in zip(ours["frames"], theirs["frames"], strict=True):
        scores, expected = ([found.pop("score") for found in frame["objects"]] for frame in (one, other))
        assert one == other
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-6)


def test_exported_graphs(video: Path, tiny_engines: Path) -> None:
    options = Options(proposals=Proposals.SOUNDING)
    eager = ovavss.load("tiny", options=options).segment(video).label_maps
    exported = ovavss.load(tiny_engines, options=options).segment(video).label_maps
    assert (eager == exported).mean() > 0.999


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"source": "r51"}, "there is no engines folder r51: it is neither a preset"),
        ({"source": "tiny", "runner": "onnxruntime"}, "export it and load the folder"),
        ({"source": "open_avs", "weights": "a.pth"}, "brings its own weights"),
        ({"source": "somewhere", "runner": "torch"}, "runs a preset"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, str], part: str) -> None:
    with pytest.raises(ovavss.UserError, match=part):
        ovavss.load(**arguments)


def window(index: int, columns: list[tuple[int, slice]]) -> ClipResult:
    """Two frames of 4 x 8 in which each (label, columns) is one detection."""
    label_map, detections = np.zeros((2, 4, 8), np.uint8), []
    for label, where in columns:
        masks = np.zeros((2, 4, 8), bool)
        masks[:, :, where] = True
        label_map[masks] = label + 1
        detections.append(Detection(label, label, "ab"[label], 0.5 + index / 10, masks))
    return ClipResult(index, 2.0 * index, 2, 2.0 * index + np.array([0.5, 1.5]), detections, label_map)


def test_tracks_over_windows() -> None:
    """`a` moves on over the border; `b` comes back elsewhere and is another object."""
    windows = (window(0, [(0, slice(0, 4)), (1, slice(6, 8))]), window(1, [(0, slice(1, 5)), (1, slice(5, 6))]))
    tracks = ovavss.Result(Path("v.mp4"), ("a", "b"), (4, 8), windows, "tiny").tracks
    assert sorted((track.name, track.times.tolist(), round(track.score, 1)) for track in tracks) == [
        ("a", [0.5, 1.5, 2.5, 3.5], 0.6),
        ("b", [0.5, 1.5], 0.5),
        ("b", [2.5, 3.5], 0.6),
    ]
