"""Sounding Shapes: from a scene to pixels, samples and the true label map."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from ovavss.datasets.sounding_shapes.audio import synthesize
from ovavss.datasets.sounding_shapes.scenes import REACH, Scene, generator, positions
from ovavss.errors import UserError
from ovavss.media.sound import SAMPLE_RATE


@dataclass(frozen=True)
class Clip:
    """A rendered scene of T snippets and n objects.

    ``frames`` uint8 [T, H, W, 3] RGB, frame i at i + 0.5 s; ``waveform`` float32 [16000 T] at 16 kHz in [-1, 1];
    ``masks`` bool [n, T, H, W], the visible part of each object, disjoint; ``categories`` int64 [n] (0-35);
    ``sounding`` bool [n, T]; ``label_map`` uint8 [T, H, W]: 0 background, category + 1 where an object sounds.
    """

    frames: np.ndarray
    waveform: np.ndarray
    masks: np.ndarray
    categories: np.ndarray
    sounding: np.ndarray
    label_map: np.ndarray
    scene: Scene = field(repr=False)


def _distance(form: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance (inside negative) to a form of radius 1 at float32 coordinates of any shape."""
    if form == 0:
        return np.sqrt(x * x + y * y) - np.float32(0.95)
    if form == 5:
        return np.abs(np.sqrt(x * x + y * y) - np.float32(0.76)) - np.float32(0.24)
    ax = np.abs(x)
    if form == 1:
        return np.maximum(ax, np.abs(y)) - np.float32(0.82)
    if form == 2:  # point up; the centroid is the center
        return np.maximum(ax * np.float32(0.8660254) - y * np.float32(0.5), y) - np.float32(0.59)
    if form == 4:
        ay = np.abs(y)
        return np.minimum(np.maximum(ax - np.float32(1.0), ay - np.float32(0.33)),
                          np.maximum(ay - np.float32(1.0), ax - np.float32(0.33)))  # fmt: skip
    # Star: fold all five points onto one half point; then it is one straight edge from the tip to the notch.
    sector = 2.0 * np.pi / 5.0
    angle = np.arctan2(ax, -y)
    angle = np.abs(angle - np.float32(sector) * np.round(angle * np.float32(1.0 / sector)))
    r = np.sqrt(x * x + y * y)
    tip, notch = np.array([1.18, 0.0]), 0.52 * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    normal = np.array([notch[1] - tip[1], tip[0] - notch[0]]) / np.hypot(*(tip - notch))
    edge = np.cos(angle) * np.float32(normal[0]) + np.sin(angle) * np.float32(normal[1])
    return r * edge - np.float32(normal @ tip)


def _background(scene: Scene, height: int, width: int) -> np.ndarray:
    """Muted, blotchy texture uint8 [H, W, 3] from value noise in four octaves."""
    rng = generator(scene.seed, scene.index, 1)
    side = min(height, width)
    value = np.zeros((height, width), np.float32)
    for cells, weight in ((3, 0.42), (7, 0.30), (16, 0.18), (40, 0.14)):
        size = 2 * cells  # covers frames up to 2:1 before it repeats
        lattice = rng.random((size, size), dtype=np.float32) - np.float32(0.5)
        for axis, length in ((0, height), (1, width)):
            at = (np.arange(length) + 0.5) * (cells / side)
            low = at.astype(np.int64)
            f = (at - low).astype(np.float32)
            f = f * f * (3.0 - 2.0 * f)
            f = f[:, None] if axis == 0 else f[None, :]
            lattice = np.take(lattice, low % size, axis) * (1.0 - f) + np.take(lattice, (low + 1) % size, axis) * f
        value += np.float32(2.0 * weight) * lattice
    level = rng.uniform(75.0, 160.0)
    tint, second = rng.normal(0.0, 7.0, (2, 3)) + np.array([[4.0, 0.0, -4.0]])  # leans to brown
    contrast = np.array([rng.uniform(45.0, 80.0)]) + second
    color = (level + tint).astype(np.float32) + value[..., None] * contrast.astype(np.float32)
    return np.clip(color, 0, 255).astype(np.uint8)


def render_frames(
    scene: Scene, times: Sequence[float] | np.ndarray, size: tuple[int, int] = (96, 96)
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the scene at any times (seconds): frames uint8 [t, H, W, 3] RGB and visible masks bool [n, t, H, W].

    ``size`` is (H, W). The field of the scene is centered and as large as fits. Edges are anti-aliased; a mask is where
    at least half of the pixel is covered and nothing is in front.
    """
    height, width = size
    if min(size) < 16:
        raise UserError(f"a rendered frame must be at least 16 pixels a side, got {height}x{width}")
    at = np.asarray(times, np.float64).reshape(-1)
    unit = min(width / scene.extent[0], height / scene.extent[1])
    origin = (np.array([width, height]) - unit * np.array(scene.extent)) / 2.0
    frames = np.repeat(_background(scene, height, width)[None], len(at), 0)
    masks = np.zeros((len(scene.shapes), len(at), height, width), bool)
    frame = np.arange(len(at))[:, None, None]
    for k, shape in enumerate(scene.shapes):
        radius = shape.radius * unit
        center = origin + unit * positions(
            np.array(shape.start), np.array(shape.velocity), np.array(shape.sway), np.array(shape.radius),
            np.array(scene.extent), at,
        )  # fmt: skip
        box = int(np.ceil(2.0 * (REACH * radius + 1.0)))
        first = np.clip(np.floor(center - box / 2.0).astype(np.int64), 0, np.array([width - box, height - box]).clip(0))
        box_w, box_h = min(box, width), min(box, height)
        columns, rows = first[:, :1] + np.arange(box_w), first[:, 1:] + np.arange(box_h)
        x = ((columns + 0.5 - center[:, :1]) / radius).astype(np.float32)[:, None, :]
        y = ((rows + 0.5 - center[:, 1:]) / radius).astype(np.float32)[:, :, None]
        turn = shape.angle + shape.spin * at
        cos, sin = (f(turn).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        distance = _distance(shape.category % 6, x * cos + y * sin, y * cos - x * sin)
        cover = np.clip(np.float32(0.5) - distance * np.float32(radius), 0.0, 1.0)
        # Lit from the upper left, with a darker rim, so that shapes stand out of the background.
        light = np.float32(1.02) - np.float32(0.10) * (x + y) - np.float32(0.34) * np.clip(
            np.float32(1.0) + distance * np.float32(9.0), 0.0, 1.0
        )  # fmt: skip
        place = (frame, rows[:, :, None], columns[:, None, :])
        under = frames[place].astype(np.float32)
        paint = np.minimum(light[..., None] * np.array(shape.rgb, np.float32), 255.0)
        frames[place] = (under + (paint - under) * cover[..., None] + 0.5).astype(np.uint8)
        visible = cover >= 0.5
        masks[(k, *place)] = visible
        for behind in range(k):
            masks[(behind, *place)] &= ~visible
    return frames, masks


def render_audio(scene: Scene) -> np.ndarray:
    """The mixed mono sound of a scene: float32 [16000 T] at 16 kHz."""
    phase = float(generator(scene.seed, scene.index, 2).random())
    return synthesize(scene.sounds, scene.snippets * SAMPLE_RATE, scene.noise_db, phase)


def oracle(masks: np.ndarray, categories: np.ndarray, heard: Collection[int]) -> np.ndarray:
    """The label map uint8 [H, W] of one frame, from its masks bool [n, H, W], categories [n] and what is heard."""
    label = np.zeros(masks.shape[1:], np.uint8)
    for mask, category in zip(masks, categories):
        if int(category) in heard:
            label[mask] = int(category) + 1
    return label


def render(scene: Scene, size: tuple[int, int] = (96, 96)) -> Clip:
    """Renders a scene at ``size`` = (H, W), one frame a snippet; see ``Clip``."""
    frames, masks = render_frames(scene, np.arange(scene.snippets) + 0.5, size)
    categories = np.array([s.category for s in scene.shapes], np.int64)
    sounding = np.array([s.sound.on if s.sound else (False,) * scene.snippets for s in scene.shapes], bool)
    value = ((categories + 1)[:, None] * sounding).astype(np.uint8)
    label_map = (masks * value[:, :, None, None]).sum(0, dtype=np.uint8)  # masks are disjoint
    return Clip(frames, render_audio(scene), masks, categories, sounding, label_map, scene)
