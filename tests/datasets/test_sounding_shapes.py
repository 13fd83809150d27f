"""The synthetic world: deterministic, fair, solvable from one frame and one second, and readable from disk."""

from __future__ import annotations

import csv
import dataclasses
import json
import wave
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ovavss.datasets.sounding_shapes import audio, disk, rendering
from ovavss.datasets.sounding_shapes import scenes as world
from ovavss.errors import UserError


@cache
def clips() -> tuple[rendering.Clip, ...]:
    return tuple(rendering.render(world.sample_scene(7, i)) for i in range(200))


def test_same_seed_same_bytes() -> None:
    for index in (0, 3):
        a, b = (rendering.render(world.sample_scene(11, index)) for _ in range(2))
        for f in dataclasses.fields(rendering.Clip):
            if f.name != "scene":
                assert getattr(a, f.name).tobytes() == getattr(b, f.name).tobytes()
        assert a.scene == b.scene
    first = rendering.render(world.sample_scene(11, 0))
    for seed, index in ((12, 0), (11, 1)):
        other = rendering.render(world.sample_scene(seed, index))
        assert first.frames.tobytes() != other.frames.tobytes()
        assert first.waveform.tobytes() != other.waveform.tobytes()


def test_base_and_novel_are_a_latin_square() -> None:
    assert len(world.CATEGORIES) == len(set(world.CATEGORIES)) == 36
    assert len(world.BASE) == 24 and len(world.NOVEL) == 12
    assert not set(world.BASE) & set(world.NOVEL)
    for part in range(6):
        for table, count in ((world.BASE, 4), (world.NOVEL, 2)):
            assert sum(c // 6 == part for c in table) == count
            assert sum(c % 6 == part for c in table) == count
    assert world.CATEGORIES[8] == "yellow triangle"


def test_base_scenes_never_show_or_sound_a_novel_category() -> None:
    scenes = [world.sample_scene(1, i, categories="base") for i in range(300)]
    used = {c for s in scenes for c in (*[o.category for o in s.shapes], *[x.category for x in s.sounds])}
    assert used == set(world.BASE)


def test_shapes_and_dtypes() -> None:
    clip = rendering.render(world.sample_scene(2, 1, aspect=1.5), (64, 96))
    n = len(clip.scene.shapes)
    assert clip.frames.shape == (5, 64, 96, 3) and clip.frames.dtype == np.uint8
    assert clip.waveform.shape == (80000,) and clip.waveform.dtype == np.float32
    assert clip.masks.shape == (n, 5, 64, 96) and clip.masks.dtype == bool
    assert clip.categories.shape == (n,) and clip.sounding.shape == (n, 5)
    assert clip.label_map.shape == (5, 64, 96) and clip.label_map.dtype == np.uint8
    assert clip.masks.sum(0).max() <= 1  # visible parts are disjoint
    assert rendering.render(world.sample_scene(2, 1, snippets=10)).waveform.shape == (160000,)


def test_rules_of_a_clip() -> None:
    for clip in clips():
        scene, visible = clip.scene, clip.categories.tolist()
        sounds = [s.category for s in scene.sounds]
        assert 1 <= len(visible) <= 4 and len(set(visible)) == len(visible)
        assert not {s.category for s in scene.off_screen} & set(visible)
        assert len({c // 6 for c in sounds}) == len(sounds)  # a register is never used twice
        assert all(any(s.on) for s in scene.sounds)
        assert np.abs(clip.waveform).max() < 1.0
        assert (clip.masks.sum((2, 3)) >= 30).all()


def test_oracle_solves_every_frame() -> None:
    for clip in clips():
        for t in range(5):
            label = rendering.oracle(clip.masks[:, t], clip.categories, clip.scene.heard(t))
            assert np.array_equal(label, clip.label_map[t])


def test_neither_color_nor_form_alone_suffices() -> None:
    """Of the snippets with sound, many have a silent object with the color, or the form, of what is heard."""
    heard, color, form = 0, 0, 0
    for clip in clips():
        for t in range(5):
            now = clip.scene.heard(t)
            if now:
                silent = [c for c in clip.categories.tolist() if c not in now]
                heard += 1
                color += any(c // 6 == h // 6 for c in silent for h in now)
                form += any(c % 6 == h % 6 for c in silent for h in now)
    assert color / heard > 0.25 and form / heard > 0.25


def test_shares_of_silence_and_off_screen_sound() -> None:
    scenes = [world.sample_scene(3, i) for i in range(1500)]
    quiet = np.mean([not s.sounds for s in scenes])
    outside = np.mean([bool(s.off_screen) for s in scenes])
    only = np.mean([bool(s.off_screen) and all(o.sound is None for o in s.shapes) for s in scenes])
    assert 0.04 < quiet < 0.08 and 0.17 < outside < 0.23 and 0.04 < only < 0.08
    partial = np.mean([not all(x.on) for s in scenes for x in s.sounds])
    assert 0.5 < partial < 0.75


def test_little_is_hidden() -> None:
    shares = []
    for clip in clips()[:120]:
        for k, shape in enumerate(clip.scene.shapes):
            alone = dataclasses.replace(clip.scene, shapes=(shape,))
            full = rendering.render_frames(alone, np.arange(5) + 0.5)[1][0].sum((1, 2))
            shares += (1.0 - clip.masks[k].sum((1, 2)) / full).tolist()
    assert max(shares) < 0.45 and np.quantile(shares, 0.99) < 0.35


def test_silent_and_off_screen_kinds() -> None:
    for i in range(30):
        silent = rendering.render(world.sample_scene(5, i, kind="silent"))
        assert not silent.label_map.any() and not silent.sounding.any()
        assert np.sqrt(np.mean(silent.waveform**2)) < 0.003
        outside = rendering.render(world.sample_scene(5, i, kind="off_screen"))
        assert not outside.label_map.any() and len(outside.scene.off_screen) == 1
        assert np.sqrt(np.mean(outside.waveform**2)) > 0.003


def test_state_agrees_with_the_patch() -> None:
    """In patch i of 0.96 s one hears what state i says, and nothing else."""
    for clip in clips()[:60]:
        spectrum = audio.log_mel(clip.waveform)
        for i in range(5):
            patch = spectrum[96 * i + 2 : 96 * i + 94]
            registers = {c // 6 for c in clip.scene.heard(i)}
            for register, start in enumerate(audio.REGISTER_STARTS):
                loud = np.sort(patch[:, start + 1 : start + 7].max(1))[-20:].mean()
                assert (loud > 0.4) == (register in registers), (clip.scene.name, i, register, loud)


def log_mel_of(category: int, phase: float = 0.3) -> np.ndarray:
    sound = audio.Sound(category, (True,) * 2, 0.0, phase)
    return audio.log_mel(audio.synthesize([sound], 2 * audio.SAMPLE_RATE, noise_db=-62.0))


@pytest.mark.parametrize("category", range(36))
def test_energy_sits_in_the_register(category: int) -> None:
    start = audio.REGISTER_STARTS[category // 6]
    profile = log_mel_of(category).mean(0)
    outside = np.delete(profile, np.arange(start - 2, start + 10))
    assert profile[start + 1 : start + 7].mean() > outside.max() + 1.0
    assert start <= int(np.argmax(profile)) < start + 8


@pytest.mark.parametrize("form", range(6))
def test_a_register_is_a_translation(form: int) -> None:
    cuts = []
    for register, start in enumerate(audio.REGISTER_STARTS):
        cuts.append(log_mel_of(6 * register + form)[:, start - 1 : start + 9])
    level = [np.sort(c.mean(1))[-60:].mean() for c in cuts]
    assert max(level) - min(level) < 0.8  # nepers: equally loud in log-mel terms
    for a in cuts:
        for b in cuts:
            assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > (0.8 if world.FORMS[form] == "ring" else 0.92)


def test_forms_differ_at_any_phase() -> None:
    """Patches of one form are closer (at the best shift in time) to that form than to any other."""
    start = audio.REGISTER_STARTS[2]
    reference = [log_mel_of(12 + f, 0.0)[:, start - 1 : start + 9] for f in range(6)]
    for form in range(6):
        for phase in (0.15, 0.6, 0.85):
            patch = log_mel_of(12 + form, phase)[50:146, start - 1 : start + 9]
            errors = [min(np.mean((r[s : s + 96] - patch) ** 2) for s in range(0, 100, 2)) for r in reference]
            others = [e for f, e in enumerate(errors) if f != form]
            assert errors[form] < 0.6 * min(others)


def test_user_mistakes() -> None:
    for bad in (
        lambda: world.sample_scene(-1, 0),
        lambda: world.sample_scene(0, 0, categories="old"),  # type: ignore[arg-type]
        lambda: world.sample_scene(0, 0, categories=[1, 2]),
        lambda: world.sample_scene(0, 0, kind="loud"),  # type: ignore[arg-type]
        lambda: world.sample_scene(0, 0, snippets=12),
        lambda: disk.write_mp4(world.sample_scene(0, 0), "x.mp4", (95, 96)),
    ):
        with pytest.raises(UserError):
            bad()


def test_mp4_round_trip(tmp_path: Path) -> None:
    scene = world.sample_scene(4, 2, aspect=1.5)
    clip = rendering.render(scene, (160, 240))
    path = disk.write_mp4(scene, tmp_path / "clip.mp4", (160, 240))
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    with av.open(str(path)) as container:
        shown = {}
        for frame in container.decode(video=0):
            for i in range(5):
                if frame.time <= i + 0.5 + 1e-6:
                    shown[i] = frame.to_ndarray(format="rgb24")
    for i in range(5):
        assert np.abs(shown[i].astype(float) - clip.frames[i]).mean() < 4.0
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
        decoded = [r.to_ndarray()[0] for f in container.decode(audio=0) for r in resampler.resample(f)]
        heard = np.concatenate([*decoded, *[r.to_ndarray()[0] for r in resampler.resample(None)]])
    assert abs(len(heard) - 80000) < 2500
    a, b = audio.log_mel(clip.waveform), audio.log_mel(heard)
    assert np.corrcoef(a[:480].ravel(), b[:480].ravel())[0, 1] > 0.95


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
@pytest.mark.parametrize(("subset", "split"), [("v2", "val"), ("v1m", "train"), ("v1s", "train"), ("v1s", "test")])
def test_avsbench_layout(tmp_path: Path, subset: str, split: str) -> None:
    snippets = 10 if subset == "v2" else 5
    scenes = [world.sample_scene(6, i, snippets=snippets, categories="base") for i in range(6)]
    names = disk.write_avsbench(tmp_path, scenes[:3], subset, split)  # type: ignore[arg-type]
    names += disk.write_avsbench(tmp_path, scenes[3:], subset, split)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="already"):
        disk.write_avsbench(tmp_path, scenes[:1], subset, split)  # type: ignore[arg-type]
    semantic, openvoc = tmp_path / "AVSBench-semantic", tmp_path / "AVSBench-openvoc"
    with (semantic / "metadata.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [r[1] for r in rows] == names and {r[6] for r in rows} == {subset}
    labels = json.loads((semantic / "label2idx.json").read_text())
    assert labels["background"] == 0 and labels["red disc"] == 1 and len(labels) == 37
    colors = {tuple(c): i for i, c in enumerate(disk.palette().tolist())}
    assert len(colors) == 37 and colors[(128, 0, 0)] == 1
    annotated = 1 if (subset, split) == ("v1s", "train") else snippets
    for row, scene in zip(rows, scenes):
        clip, name = rendering.render(scene), row[1]
        shown = {world.CATEGORIES[c - 1] for c in np.unique(clip.label_map) if c}
        assert {x for x in row[4].split("_") if x} == shown
        with wave.open(str(semantic / subset / name / "audio.wav")) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
            data = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768.0
        assert np.abs(data - clip.waveform).max() <= 1 / 32768
        assert len(list((semantic / subset / name / "labels_rgb").iterdir())) == annotated
        for t in range(annotated):
            picture = np.asarray(Image.open(semantic / subset / name / "labels_rgb" / f"{t}.png").convert("RGB"))
            read = np.array([colors[tuple(c)] for c in picture.reshape(-1, 3).tolist()]).reshape(96, 96)
            assert np.array_equal(read, clip.label_map[t])
        for t in range(snippets):
            jpeg = np.asarray(Image.open(openvoc / split / "JPEGImages" / name / f"{t}.jpg")).astype(float)
            assert np.abs(jpeg - clip.frames[t]).mean() < 3.0
    if split == "test":
        return
    file_name = {"train": "avsbench_ov_train_base.json", "val": "avsbench_ov_val_base_novel.json"}[split]
    table = json.loads((openvoc / file_name).read_text())
    assert [v["id"] for v in table["videos"]] == [1, 2, 3, 4, 5, 6]
    expected = world.BASE if split == "train" else range(36)
    assert [c["id"] for c in table["categories"]] == [i + 1 for i in expected]
    assert len({a["id"] for a in table["annotations"]}) == len(table["annotations"]) > 0
    for video, scene in zip(table["videos"], scenes):
        clip = rendering.render(scene)
        assert video["length"] == len(video["file_names"]) == snippets and video["label"] == subset
        read = np.zeros_like(clip.label_map)
        for a in table["annotations"]:
            if a["video_id"] == video["id"]:
                for t, (segmentation, box) in enumerate(zip(a["segmentations"], a["bboxes"])):
                    assert (segmentation is None) == (box is None)
                    if segmentation:
                        mask = coco_mask.decode(segmentation).astype(bool)
                        read[t][mask] = a["category_id"]
                        rows_, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                        assert box == [columns[0], rows_[0], np.ptp(columns) + 1, np.ptp(rows_) + 1]
        assert np.array_equal(read[:annotated], clip.label_map[:annotated])
