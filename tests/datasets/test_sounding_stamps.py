"""Sounding Stamps: Qt's resource files, what is drawn from a seed, and the truth that is rendered."""

import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ovavss.checkpoints.fetched import is_fetched, packages
from ovavss.datasets.sounding_stamps.media import MediaFile, StampMedia, backgrounds, stamp_classes
from ovavss.datasets.sounding_stamps.qt_resources import QtResources
from ovavss.datasets.sounding_stamps.scenes import render, render_waveform, sample_scene, stamp_clips
from ovavss.errors import UserError
from ovavss.models.open_avs.translator import read_sounds


def write_resources(path: Path, files: dict[str, tuple[bytes, bool]]) -> None:
    """A version 3 resource file with one folder, `sounds`, whose files are plain or compressed."""
    names, data, nodes = b"", b"", []

    def put_name(name: str) -> int:
        nonlocal names
        start = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        return start

    nodes.append(struct.pack(">IHIIQ", 0, 2, 1, 1, 0))
    nodes.append(struct.pack(">IHIIQ", put_name("sounds"), 2, len(files), 2, 0))
    for name, (content, compressed) in files.items():
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if compressed else content
        nodes.append(struct.pack(">IHHHIQ", put_name(name), int(compressed), 0, 0, len(data), 0))
        data += struct.pack(">I", len(stored)) + stored
    tree = 24
    start = tree + sum(map(len, nodes))
    header = struct.pack(">4s5I", b"qres", 3, tree, start + len(names), start, 0)
    path.write_bytes(header + b"".join(nodes) + names + data)


def test_resource_files(tmp_path: Path) -> None:
    path = tmp_path / "a.rcc"
    write_resources(path, {"plain.ogg": (b"plain", False), "packed.ogg": (b"packed" * 50, True)})
    resources = QtResources(path)
    assert resources.read("sounds/plain.ogg") == b"plain" and resources.read("sounds/packed.ogg") == b"packed" * 50
    assert "sounds/other.ogg" not in resources
    whole = path.read_bytes()
    for damaged in (b"", b"PK" + whole[2:], whole[:40]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="resource file"):
            QtResources(path)


def test_the_tables() -> None:
    classes = stamp_classes()
    assert len([each for each in classes.values() if each.pictures]) == 26 and len(classes) == 32
    for each in classes.values():
        assert each.sounds and bool(each.pictures) == (each.size > 0) and each.name in each.accepted_names
    assert classes["songbird"].accepted_names == ("songbird", "bird", "pigeon", "crow")
    assert {each.audioset for each in classes.values()} <= set(read_sounds())
    files = [file for each in classes.values() for file in (*each.pictures, *each.sounds)] + list(backgrounds())
    assert {file.package for file in files} <= set(packages()) and all(file.license for file in files)


def test_what_a_seed_draws() -> None:
    scenes = [sample_scene(1, index) for index in range(60)]
    assert scenes[:3] == [sample_scene(1, index) for index in range(3)] != [sample_scene(3, i) for i in range(3)]
    assert Counter(scene.kind for scene in scenes) == {"single": 32, "off_screen": 12, "silent": 8, "turns": 8}
    groups = {name: each.group for name, each in stamp_classes().items()}
    for scene in scenes:
        shown = [groups[pasted.name] for pasted in scene.pictures]
        assert len(shown) == len(set(shown)) == 2
        heard = [groups[played.name] for played in scene.sounds]
        if scene.kind == "off_screen":
            assert len(heard) == 1 and heard[0] not in shown
        else:
            assert len(heard) == {"single": 1, "turns": 2, "silent": 0}[scene.kind] and set(heard) <= set(shown)


def test_odd_and_even_seeds_share_no_media_where_there_is_a_choice() -> None:
    def used(seed: int) -> set[MediaFile]:
        scenes = [sample_scene(seed, index) for index in range(400)]
        files = {scene.background for scene in scenes} | {p.picture for s in scenes for p in s.pictures}
        return files | {played.recording for scene in scenes for played in scene.sounds}

    odd, even, single = used(1), used(2), set()
    for each in stamp_classes().values():
        single |= {files[0] for files in (each.pictures, each.sounds) if len(files) == 1}
    assert odd & even <= single and odd - single and even - single


class DrawnMedia(StampMedia):
    """Red discs on gray, and a tone for every sound."""

    def __init__(self) -> None:
        pass

    def picture(self, file: MediaFile) -> Image.Image:
        picture = Image.new("RGBA", (100, 100))
        ImageDraw.Draw(picture).ellipse((0, 0, 99, 99), fill=(255, 0, 0, 255))
        return picture

    def background(self, file: MediaFile) -> Image.Image:
        return Image.new("RGB", (640, 480), (90, 90, 90))

    def sound(self, file: MediaFile) -> np.ndarray:
        return (0.1 * np.sqrt(2) * np.sin(np.arange(8000) * 0.3)).astype(np.float32)


def loudness(waveform: np.ndarray) -> np.ndarray:
    return np.sqrt((waveform.reshape(5, -1) ** 2).mean(1))


def test_frames_sound_and_truth_agree() -> None:
    for clip in stamp_clips(DrawnMedia(), seed=1, num_clips=15):
        assert clip.frames.shape == (5, 360, 480, 3) and clip.waveform.shape == (80_000,)
        first, second = clip.visible.values()
        assert not (first & second).any()
        red = (clip.frames[..., 0] > 172) & (clip.frames[..., 1] < 46)
        assert (red == (first | second)).mean() > 0.999
        on = np.any(list(clip.sounding.values()), axis=0)
        loud = loudness(clip.waveform)
        if clip.kind == "off_screen":
            assert (loud > 0.08).all() and not on.any()
        else:
            assert ((loud > 0.08) == on).all() and (loud[~on] < 0.002).all()
        assert [clip.sounding_class(second) is not None for second in range(5)] == on.tolist()


def test_options_of_the_sound() -> None:
    media = DrawnMedia()
    own, swapped = (list(stamp_clips(media, 2, 8, sound)) for sound in ("own", "swapped"))
    for index in range(8):
        np.testing.assert_array_equal(swapped[index].waveform, own[(index + 7) % 8].waveform)
        np.testing.assert_array_equal(swapped[index].frames, own[index].frames)
        assert swapped[index].kind == "swapped"
        assert all((swapped[index].sounding[name] == on).all() for name, on in own[index].sounding.items())
    silent = render(sample_scene(2, 0), media, "silent")
    assert silent.kind == "silent" and not any(on.any() for on in silent.sounding.values())
    assert 0.0009 < loudness(silent.waveform).mean() < 0.0011
    still = sample_scene(2, 3)
    assert still.kind == "silent"
    for decibel in (10, 0):
        noise = np.sqrt((render_waveform(still, media, decibel) ** 2).mean())
        assert noise == pytest.approx(0.1 * 10 ** (-decibel / 20), rel=0.01)


def test_things_pasted_twice() -> None:
    scene = sample_scene(1, 2, several=1.0)
    assert Counter(pasted.name for pasted in scene.pictures) == dict.fromkeys(
        (pasted.name for pasted in scene.pictures), 2
    )
    clip, single = render(scene, DrawnMedia()), render(sample_scene(1, 2), DrawnMedia())
    assert set(clip.visible) == set(single.visible)
    columns = {name: np.flatnonzero(mask[2].any(0)) for name, mask in clip.visible.items()}
    assert all(found[-1] - found[0] > 90 for found in columns.values())


def test_missing_packages_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="could not be fetched"):
        StampMedia(offline=True)
    assert not list(tmp_path.iterdir())


def test_the_real_media() -> None:
    keys = {file.package for file in backgrounds()} | {"tuxpaint_stamps", "gcompris_data"}
    if not all(is_fetched(packages()[key]) for key in keys):
        pytest.skip(f"Sounding Stamps are not in the cache; run ovavss weights fetch {' '.join(sorted(keys))}")
    media = StampMedia(offline=True)
    for each in stamp_classes().values():
        for file in each.sounds:
            samples = media.sound(file)
            assert len(samples) > 1000 and 0.05 < np.sqrt((samples**2).mean()) < 0.101
        for file in each.pictures:
            assert min(media.picture(file).size) > 40
    for file in backgrounds():
        assert min(media.background(file).size) >= 360
