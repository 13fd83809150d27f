"""Sounding Shapes: a procedural audio-visual world in which colored shapes move, and some of them sound.

A category is "color form", for instance "red disc": six colors times six forms. Color decides the pitch register and
form the pattern of the sound (``sounding_shapes_audio``), so a combination that was never seen or heard can be inferred
from its parts. ``BASE`` (24) and ``NOVEL`` (12) split the combinations; every color and every form is in four base and
two novel ones.

Rules that make a clip solvable from one frame and one second of sound: no category is visible twice in a clip, nothing
in view has the category of a sound from outside, and no two sounds of a clip share a color (a register is never used
twice). Silent shapes often share the color or the form of a sound, so neither alone gives the answer.

Time grid. The audio encoder cuts patches of 0.96 s (patch i covers [0.96 i, 0.96 i + 0.975) s) while the frame of
snippet i is shown at i + 0.5 s. So whether an object sounds is constant over [0.96 i, 0.96 (i + 1)) s, the last state
until the end: for up to eleven snippets frame i, patch i and state i agree.

Everything follows from (seed, index): a ``Scene`` describes a clip, ``render`` turns it into pixels and samples.
Positions and sizes are in units of the frame's short side, so a scene renders at any resolution.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ovavss.datasets.sounding_shapes.audio import SAMPLE_RATE, STATE_SECONDS, Sound, synthesize
from ovavss.errors import UserError

__all__ = [
    "BASE", "CATEGORIES", "COLORS", "FORMS", "NOVEL", "SAMPLE_RATE", "STATE_SECONDS", "Clip", "Scene", "Shape",
    "Sound", "WorldConfig", "oracle", "render", "render_audio", "render_frames", "sample_scene",
]  # fmt: skip

COLORS = ("red", "yellow", "green", "cyan", "blue", "magenta")  # low register to high
FORMS = ("disc", "square", "triangle", "star", "cross", "ring")
CATEGORIES = tuple(f"{color} {form}" for color in COLORS for form in FORMS)
NOVEL = tuple(i for i in range(36) if (i % 6 - i // 6) % 6 in (1, 4))  # a Latin square: two a row, two a column
BASE = tuple(i for i in range(36) if i not in NOVEL)

Kind = Literal["mixed", "silent", "off_screen"]

RGB = ((222, 42, 42), (238, 212, 40), (44, 168, 62), (60, 206, 220), (48, 78, 222), (208, 52, 196))
_REACH = 1.2  # no form extends further than this many radii from its center
_MAX_SNIPPETS = 11  # beyond it i + 0.5 s lies outside state i


@dataclass(frozen=True)
class WorldConfig:
    """How scenes are drawn. Lengths are in units of the frame's short side, times in seconds."""

    object_counts: tuple[float, ...] = (0.12, 0.30, 0.33, 0.25)  # P(1, 2, 3, 4 visible objects)
    sounding_counts: tuple[float, ...] = (0.55, 0.41, 0.04)  # P(1, 2, 3 of them sound), given that any does
    p_silent: float = 0.06  # no sound at all
    p_off_screen_only: float = 0.06  # sound, but from nothing in view
    p_off_screen: float = 0.16  # an off-screen sound beside on-screen ones (20 % of all clips with the line above)
    p_confusable: float = 0.65  # a silent object shares color or form with a sound
    p_always_on: float = 0.35  # a sound lasts for the whole clip
    p_two_runs: float = 0.30  # of the others: it is on twice rather than once
    radius: tuple[float, float] = (10 / 96, 17 / 96)
    speed: tuple[float, float] = (0.02, 0.14)
    spin: float = 0.4  # largest rotation speed in radians per second
    level_jitter_db: float = 3.0
    noise_db: tuple[float, float] = (-66.0, -54.0)
    max_hidden: float = 0.25  # of an object's disc, at any time, by those in front of it


@dataclass(frozen=True)
class Shape:
    """One visible object.

    Its center starts at ``start``, moves with ``velocity`` and swings across that direction by ``sway`` = (size, Hz,
    phase in radians); it bounces off the frame. ``angle`` and ``spin`` are in radians and radians per second.
    """

    category: int
    radius: float
    start: tuple[float, float]
    velocity: tuple[float, float]
    sway: tuple[float, float, float]
    angle: float
    spin: float
    rgb: tuple[int, int, int]
    sound: Sound | None = None


@dataclass(frozen=True)
class Scene:
    """A clip before it is rendered. ``shapes`` go from back to front; ``extent`` is (width, height) of the field."""

    seed: int
    index: int
    snippets: int
    extent: tuple[float, float]
    shapes: tuple[Shape, ...]
    off_screen: tuple[Sound, ...] = ()
    noise_db: float = -60.0

    @property
    def name(self) -> str:
        """A name that no other (seed, index) has and that sorts by index."""
        return f"{self.seed}_{self.index:06d}"

    @property
    def seconds(self) -> float:
        """Length of the clip: one second a snippet."""
        return float(self.snippets)

    @property
    def sounds(self) -> tuple[Sound, ...]:
        """All sounds, those of visible objects first."""
        return tuple(s.sound for s in self.shapes if s.sound is not None) + self.off_screen

    def heard(self, snippet: int) -> frozenset[int]:
        """Categories that sound in a snippet, in view or not."""
        return frozenset(s.category for s in self.sounds if s.on[snippet])


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


# --- drawing a scene --------------------------------------------------------------------------------------------------


def _generator(seed: int, index: int, stream: int) -> np.random.Generator:
    if seed < 0 or index < 0:
        raise UserError(f"seed and index must not be negative, got {seed} and {index}")
    return np.random.Generator(np.random.PCG64([seed, index, stream]))


def _allowed(categories: Literal["base", "novel", "all"] | Collection[int]) -> list[int]:
    if isinstance(categories, str):
        named = {"base": BASE, "novel": NOVEL, "all": tuple(range(36))}
        if categories not in named:
            raise UserError(f"categories must be base, novel, all or a list of indices, not {categories!r}")
        return list(named[categories])
    chosen = sorted(set(categories))
    if any(not 0 <= c < 36 for c in chosen) or len(chosen) < 8 or len({c // 6 for c in chosen}) < 4:
        raise UserError("categories needs at least 8 indices from 0 to 35 in at least 4 colors")
    return chosen


def _pick(rng: np.random.Generator, weights: Sequence[float]) -> int:
    edges = np.cumsum(weights)
    return min(int(np.searchsorted(edges, rng.random() * edges[-1], side="right")), len(weights) - 1)


def _choose(rng: np.random.Generator, pool: Sequence[int]) -> int:
    return pool[int(rng.integers(len(pool)))]


def _related(pool: Sequence[int], others: Collection[int]) -> list[int]:
    """Those of the pool that share color or form with one of the others."""
    return [c for c in pool if any(c // 6 == o // 6 or c % 6 == o % 6 for o in others)]


def _on_pattern(rng: np.random.Generator, snippets: int, config: WorldConfig) -> tuple[bool, ...]:
    if rng.random() < config.p_always_on or snippets < 2:
        return (True,) * snippets
    on = np.zeros(snippets, bool)
    if rng.random() < config.p_two_runs and snippets >= 3:
        a, b, c = np.sort(rng.choice(snippets, 3, replace=False))  # on from a, off from b, on again from c
        on[a:b] = True
        on[c : int(rng.integers(c, snippets)) + 1] = True
    else:
        length = int(rng.integers(1, snippets))
        first = int(rng.integers(0, snippets - length + 1))
        on[first : first + length] = True
    return tuple(bool(x) for x in on)


def _make_sound(rng: np.random.Generator, category: int, snippets: int, config: WorldConfig) -> Sound:
    on = _on_pattern(rng, snippets, config)
    level, phase, tempo = rng.random(3)
    return Sound(category, on, config.level_jitter_db * (2.0 * level - 1.0), phase, 0.95 + 0.1 * tempo)


def _draw_categories(
    rng: np.random.Generator, allowed: list[int], kind: Kind, config: WorldConfig
) -> tuple[list[int], list[int], list[int]]:
    """Returns (sounding in view, silent in view, off screen), all of different categories."""
    roll, off_roll = rng.random(2)
    if kind == "mixed":
        silent, only_off = roll < config.p_silent, config.p_silent <= roll < config.p_silent + config.p_off_screen_only
    else:
        silent, only_off = kind == "silent", kind == "off_screen"
    count = 1 + _pick(rng, config.object_counts)
    wanted = 0 if silent or only_off else min(count, 1 + _pick(rng, config.sounding_counts))
    taken: list[int] = []
    for _ in range(wanted):
        taken.append(_choose(rng, [c for c in allowed if all(c // 6 != o // 6 for o in taken)]))
    outside = []
    if only_off or (wanted and off_roll < config.p_off_screen):
        pool = [c for c in allowed if all(c // 6 != o // 6 for o in taken)]
        if pool:
            outside = [_choose(rng, pool)]
    heard = taken + outside
    quiet: list[int] = []
    while len(taken) + len(quiet) < count:
        pool = [c for c in allowed if c not in heard and c not in quiet]
        near = _related(pool, heard)
        quiet.append(_choose(rng, near if near and rng.random() < config.p_confusable else pool))
    return taken, quiet, outside


def _positions(
    start: np.ndarray, velocity: np.ndarray, sway: np.ndarray, radius: np.ndarray, extent: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Centers float [..., t, 2] at the times [t] of objects with start and velocity [..., 2], sway [..., 3]."""
    speed = np.maximum(np.hypot(velocity[..., 0], velocity[..., 1]), 1e-9)[..., None]
    across = velocity[..., ::-1] * np.array([-1.0, 1.0]) / speed
    swing = sway[..., :1] * np.sin(2.0 * np.pi * sway[..., 1:2] * times + sway[..., 2:])
    raw = start[..., None, :] + velocity[..., None, :] * times[:, None] + across[..., None, :] * swing[..., None]
    low = _REACH * radius[..., None, None]
    span = np.maximum(extent - 2.0 * low, 1e-6)
    return low + span - np.abs(span - np.mod(raw - low, 2.0 * span))  # a triangle wave: bounces


def _hidden(distance: np.ndarray, front: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Share of discs of radius ``back`` that discs of radius ``front`` at these distances cover."""
    d = np.maximum(distance, 1e-9)
    a = np.clip((d * d + back * back - front * front) / (2.0 * d * back), -1.0, 1.0)
    b = np.clip((d * d + front * front - back * back) / (2.0 * d * front), -1.0, 1.0)
    kite = (-d + back + front) * (d + back - front) * (d - back + front) * (d + back + front)
    area = back * back * np.arccos(a) + front * front * np.arccos(b) - 0.5 * np.sqrt(np.maximum(kite, 0.0))
    return area / (np.pi * back * back)


def _layout(
    rng: np.random.Generator, count: int, snippets: int, extent: np.ndarray, config: WorldConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws radius [n], start [n, 2], velocity [n, 2], sway [n, 3] so that nothing is hidden much, ever."""
    times = np.arange(0.0, snippets + 0.01, 0.25)
    best: tuple[float, tuple[np.ndarray, ...]] = (np.inf, ())
    for _ in range(12):
        placed: list[tuple[np.ndarray, ...]] = []
        paths: list[np.ndarray] = []
        cover = np.zeros((count, len(times)))
        for k in range(count):
            tries = 32
            draws = rng.random((tries, 9))
            radius = config.radius[0] + (config.radius[1] - config.radius[0]) * draws[:, 0]
            low = _REACH * radius[:, None]
            start = low + (extent - 2.0 * low) * draws[:, 1:3]
            speed = config.speed[0] + (config.speed[1] - config.speed[0]) * draws[:, 3]
            heading = 2.0 * np.pi * draws[:, 4]
            velocity = speed[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
            sway = np.stack([0.04 * draws[:, 5], 0.1 + 0.2 * draws[:, 6], 2.0 * np.pi * draws[:, 7]], 1)
            path = _positions(start, velocity, sway, radius, extent, times)
            worst = np.zeros(tries)
            shares = []
            for j in range(k):
                away = np.hypot(path[..., 0] - paths[j][:, 0], path[..., 1] - paths[j][:, 1])
                shares.append(_hidden(away, radius[:, None], placed[j][0]))
                worst = np.maximum(worst, (cover[j] + shares[j]).max(1))
            good = np.flatnonzero(worst <= config.max_hidden)
            pick = int(good[0]) if len(good) else int(np.argmin(worst))
            for j in range(k):
                cover[j] += shares[j][pick]
            placed.append((radius[pick], start[pick], velocity[pick], sway[pick]))
            paths.append(path[pick])
        result = tuple(np.stack([p[i] for p in placed]) for i in range(4))
        if cover.max() < best[0]:
            best = (float(cover.max()), result)
        if cover.max() <= config.max_hidden:
            break
    radius, start, velocity, sway = best[1]
    return radius, start, velocity, sway


def sample_scene(
    seed: int,
    index: int,
    *,
    categories: Literal["base", "novel", "all"] | Collection[int] = "all",
    kind: Kind = "mixed",
    snippets: int = 5,
    aspect: float = 1.0,
    config: WorldConfig | None = None,
) -> Scene:
    """Draws scene ``index`` of the world ``seed``; the same arguments always give the same scene.

    ``categories``: which ones may be seen or heard ("base" for training). ``kind``: "mixed" draws as ``config`` says,
    "silent" has no sound, "off_screen" has sound from outside only. ``snippets``: seconds, 1 to 11. ``aspect``: width
    over height of the field in which the objects move.
    """
    config = config or WorldConfig()
    if not 1 <= snippets <= _MAX_SNIPPETS:
        raise UserError(f"snippets must be 1 to {_MAX_SNIPPETS}, got {snippets}")
    if kind not in ("mixed", "silent", "off_screen"):
        raise UserError(f"kind must be mixed, silent or off_screen, not {kind!r}")
    if not 0.25 <= aspect <= 4.0:
        raise UserError(f"aspect must lie between 0.25 and 4, got {aspect}")
    rng = _generator(seed, index, 0)
    loud, quiet, outside = _draw_categories(rng, _allowed(categories), kind, config)
    extent = np.array([max(aspect, 1.0), max(1.0 / aspect, 1.0)])
    order = rng.permutation(len(loud) + len(quiet))  # depth says nothing about sound
    radius, start, velocity, sway = _layout(rng, len(order), snippets, extent, config)
    shapes = []
    for k, which in enumerate(order):
        category = (loud + quiet)[which]
        sound = _make_sound(rng, category, snippets, config) if which < len(loud) else None
        angle, spin, turning = rng.random(3)
        r, g, b = (int(c) for c in np.clip(np.array(RGB[category // 6]) + rng.integers(-14, 15, 3), 0, 255))
        shapes.append(
            Shape(
                category=category,
                radius=float(radius[k]),
                start=(float(start[k, 0]), float(start[k, 1])),
                velocity=(float(velocity[k, 0]), float(velocity[k, 1])),
                sway=(float(sway[k, 0]), float(sway[k, 1]), float(sway[k, 2])),
                angle=float(0.9 * (2.0 * angle - 1.0)),
                spin=float(config.spin * (2.0 * spin - 1.0)) if turning < 0.6 else 0.0,
                rgb=(r, g, b),
                sound=sound,
            )
        )
    off_screen = tuple(_make_sound(rng, c, snippets, config) for c in outside)
    noise = config.noise_db[0] + (config.noise_db[1] - config.noise_db[0]) * rng.random()
    return Scene(seed, index, snippets, (float(extent[0]), float(extent[1])), tuple(shapes), off_screen, float(noise))


# --- rendering --------------------------------------------------------------------------------------------------------


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
    rng = _generator(scene.seed, scene.index, 1)
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
        center = origin + unit * _positions(
            np.array(shape.start), np.array(shape.velocity), np.array(shape.sway), np.array(shape.radius),
            np.array(scene.extent), at,
        )  # fmt: skip
        box = int(np.ceil(2.0 * (_REACH * radius + 1.0)))
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
    phase = float(_generator(scene.seed, scene.index, 2).random())
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
