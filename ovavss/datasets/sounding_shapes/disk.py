"""Writes the synthetic world to disk: MP4 files with an AAC track, and the AVSBench-OV folder layout."""

from __future__ import annotations

import csv
import io
import json
import os
import wave
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ovavss.datasets.sounding_shapes.rendering import Clip, render, render_audio, render_frames
from ovavss.datasets.sounding_shapes.scenes import BASE, CATEGORIES, Scene
from ovavss.errors import UserError
from ovavss.media.sound import SAMPLE_RATE

METADATA_COLUMNS = ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label")
_SNIPPETS = {"v1s": 5, "v1m": 5, "v2": 10}
_JSON = {"train": "avsbench_ov_train_base.json", "val": "avsbench_ov_val_base_novel.json"}


def _replace(path: Path, content: bytes) -> None:
    """Writes a whole file or nothing: a temporary name first, then a rename."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


# --- MP4 --------------------------------------------------------------------------------------------------------------


def write_mp4(
    scene: Scene,
    path: str | os.PathLike[str],
    size: tuple[int, int] = (480, 480),
    fps: int = 25,
    audio_rate: int = 44100,
    stereo: bool = True,
) -> Path:
    """Renders a scene as a real video with a moving picture and an AAC track; returns the path.

    ``size``: (H, W), both even. Frame f is on show over [f, f + 1) / fps and drawn at the middle of that time, so with
    an odd ``fps`` the frame on show at i + 0.5 s is exactly frame i of ``render(scene, size)``.
    """
    target = Path(path)
    height, width = size
    if height % 2 or width % 2:
        raise UserError(f"an MP4 frame needs even sides, got {height}x{width}")
    if not 1 <= fps <= 240:
        raise UserError(f"fps must be 1 to 240, got {fps}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    codec, options = "mpeg4", {"qscale": "2"}
    if "libx264" in av.codecs_available:
        codec, options = "libx264", {"crf": "16", "preset": "veryfast"}
    try:
        with av.open(str(part), "w", format="mp4") as container:
            video: Any = container.add_stream(codec, rate=fps, options=options)
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            video.time_base = Fraction(1, fps)
            audio: Any = container.add_stream("aac", rate=audio_rate, layout="stereo" if stereo else "mono")
            audio.bit_rate = 160_000
            _encode_audio(container, audio, render_audio(scene), audio_rate, stereo)
            total, step = scene.snippets * fps, 16  # few frames at a time: a large render needs little memory
            for first in range(0, total, step):
                times = (np.arange(first, min(first + step, total)) + 0.5) / fps
                for offset, image in enumerate(render_frames(scene, times, size)[0]):
                    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                    frame.pts, frame.time_base = first + offset, Fraction(1, fps)
                    container.mux(video.encode(frame))
            container.mux(video.encode())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _encode_audio(container: Any, stream: Any, waveform: np.ndarray, rate: int, stereo: bool) -> None:
    resampler = av.AudioResampler(format="fltp", layout="stereo" if stereo else "mono", rate=rate)
    block = SAMPLE_RATE // 10
    for first in range(0, len(waveform), block):
        frame = av.AudioFrame.from_ndarray(waveform[None, first : first + block], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, first, Fraction(1, SAMPLE_RATE)
        for piece in resampler.resample(frame):
            container.mux(stream.encode(piece))
    for piece in resampler.resample(None):
        container.mux(stream.encode(piece))
    container.mux(stream.encode())


# --- AVSBench-OV ------------------------------------------------------------------------------------------------------


def palette(count: int = len(CATEGORIES) + 1) -> np.ndarray:
    """Label colors uint8 [count, 3]: the bits of the label dealt to R, G, B in turn, highest color bit first."""
    label = np.arange(count)
    color = np.zeros((count, 3), np.int64)
    for step in range(8):
        for channel in range(3):
            color[:, channel] |= ((label >> (3 * step + channel)) & 1) << (7 - step)
    return color.astype(np.uint8)


def _wav_bytes(waveform: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.clip(np.round(waveform * 32768.0), -32768, 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def _read_rows(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"videos": [], "annotations": []}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not readable JSON: write the data set into an empty folder") from error
    return dict(content)


def _annotations(clip: Clip, video: int, first_id: int, only_first: bool) -> list[dict[str, Any]]:
    """One per object that sounds at some time; null where it is silent or fully hidden."""
    out: list[dict[str, Any]] = []
    for k in np.flatnonzero(clip.sounding.any(1)):
        entry: dict[str, Any] = {
            "id": first_id + len(out),
            "video_id": video,
            "category_id": int(clip.categories[k]) + 1,
            "iscrowd": 0,
            "height": clip.frames.shape[1],
            "width": clip.frames.shape[2],
            "length": len(clip.frames),
            "bboxes": [],
            "segmentations": [],
            "areas": [],
        }
        for t, mask in enumerate(clip.masks[k]):
            if not clip.sounding[k, t] or not mask.any() or (only_first and t):
                box = segmentation = area = None
            else:
                encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
                box = [float(x) for x in coco_mask.toBbox(encoded)]
                area = int(mask.sum())
                segmentation = {"size": [int(x) for x in encoded["size"]], "counts": encoded["counts"].decode("ascii")}
            entry["bboxes"].append(box)
            entry["segmentations"].append(segmentation)
            entry["areas"].append(area)
        if any(s is not None for s in entry["segmentations"]):
            out.append(entry)
    return out


def write_avsbench(
    root: str | os.PathLike[str],
    scenes: Iterable[Scene],
    subset: Literal["v1s", "v1m", "v2"] = "v2",
    split: Literal["train", "val", "test"] = "test",
    size: tuple[int, int] = (96, 96),
) -> list[str]:
    """Adds clips to a data set in the AVSBench-OV layout, with the 36 categories of this world; returns their names.

    Scenes need 10 snippets for v2 and 5 for v1s and v1m. Annotated are the sounding objects: null (JSON) or background
    (PNG) where silent. Category ids and labels are the index in ``CATEGORIES`` + 1. train and val clips also go into
    the split's JSON, whose ``categories`` are the base ones for train (and any other that occurs) and all for val; in
    train, v1s annotates the first frame only. A clip in which nothing in view sounds has an empty class field in
    metadata.csv. May be called again for other subsets and splits.
    """
    if subset not in _SNIPPETS:
        raise UserError(f"subset must be v1s, v1m or v2, not {subset!r}")
    if split not in ("train", "val", "test"):
        raise UserError(f"split must be train, val or test, not {split!r}")
    openvoc, semantic = Path(root) / "AVSBench-openvoc", Path(root) / "AVSBench-semantic"
    for part in ("train", "val", "test"):
        (openvoc / part / "JPEGImages").mkdir(parents=True, exist_ok=True)
    for part in _SNIPPETS:
        (semantic / part).mkdir(parents=True, exist_ok=True)
    rows = _read_rows(semantic / "metadata.csv")
    table = _read_json(openvoc / _JSON[split]) if split in _JSON else None
    video = max((v["id"] for v in table["videos"]), default=0) if table else 0
    instance = max((a["id"] for a in table["annotations"]), default=0) if table else 0
    known = {row[1] for row in rows}
    colors = palette().reshape(-1).tolist()
    names = []
    for scene in scenes:
        name = f"{split}_{subset}_{scene.name}"
        if scene.snippets != _SNIPPETS[subset]:
            raise UserError(f"{subset} needs {_SNIPPETS[subset]} snippets, but scene {scene.name} has {scene.snippets}")
        if name in known:
            raise UserError(f"{name} is in {semantic / 'metadata.csv'} already: use another index or an empty folder")
        known.add(name)
        clip = render(scene, size)
        images, folder = openvoc / split / "JPEGImages" / name, semantic / subset / name
        images.mkdir(exist_ok=True)
        (folder / "labels_rgb").mkdir(parents=True, exist_ok=True)
        only_first = subset == "v1s" and split == "train"
        for t, (frame, label) in enumerate(zip(clip.frames, clip.label_map)):
            # Full chroma: at 96 pixels half-size color planes would bleed over the edges.
            Image.fromarray(frame).save(images / f"{t}.jpg", quality=95, subsampling=0)
            if not (only_first and t):
                picture = Image.fromarray(label)
                picture.putpalette(colors)  # turns it into a palette image
                picture.save(folder / "labels_rgb" / f"{t}.png")
        (folder / "audio.wav").write_bytes(_wav_bytes(clip.waveform))
        sounding = [CATEGORIES[c] for c in sorted(clip.categories[clip.sounding.any(1)])]
        rows.append([name, name, "0", "0", "_".join(sounding), split, subset])
        if table is not None:
            video += 1
            table["videos"].append({
                "id": video, "file_names": [f"{name}/{t}.jpg" for t in range(scene.snippets)], "height": size[0],
                "width": size[1], "length": scene.snippets, "label": subset,
            })  # fmt: skip
            table["annotations"] += _annotations(clip, video, instance + 1, only_first)
            instance = table["annotations"][-1]["id"] if table["annotations"] else 0
        names.append(name)
    # The tables last: a killed run leaves no entry without its files.
    if table is not None:
        ids = {a["category_id"] for a in table["annotations"]} | {c + 1 for c in BASE}
        table["categories"] = [
            {"id": i + 1, "name": c} for i, c in enumerate(CATEGORIES) if split == "val" or i + 1 in ids
        ]
        _replace(openvoc / _JSON[split], json.dumps(table).encode())
    labels = {"background": 0} | {c: i + 1 for i, c in enumerate(CATEGORIES)}
    _replace(semantic / "label2idx.json", json.dumps(labels, indent=1).encode())
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([METADATA_COLUMNS, *rows])
    _replace(semantic / "metadata.csv", text.getvalue().encode())
    return names
