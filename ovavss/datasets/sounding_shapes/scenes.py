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

Everything follows from (seed, index): a ``Scene`` describes a clip, ``rendering`` turns it into pixels and samples.
Positions and sizes are in units of the frame's short side, so a scene renders at any resolution.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ovavss.datasets.sounding_shapes.audio import Sound
from ovavss.errors import UserError

COLORS = ("red", "yellow", "green", "cyan", "blue", "magenta")  # low register to high
FORMS = ("disc", "square", "triangle", "star", "cross", "ring")
CATEGORIES = tuple(f"{color} {form}" for color in COLORS for form in FORMS)
NOVEL = tuple(i for i in range(36) if (i % 6 - i // 6) % 6 in (1, 4))  # a Latin square: two a row, two a column
BASE = tuple(i for i in range(36) if i not in NOVEL)

Kind = Literal["mixed", "silent", "off_screen"]

RGB = ((222, 42, 42), (238, 212, 40), (44, 168, 62), (60, 206, 220), (48, 78, 222), (208, 52, 196))
REACH = 1.2  # no form extends further than this many radii from its center
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


def generator(seed: int, index: int, stream: int) -> np.random.Generator:
    """Random numbers of a scene; its drawing, picture and sound have a stream each."""
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


def positions(
    start: np.ndarray, velocity: np.ndarray, sway: np.ndarray, radius: np.ndarray, extent: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Centers float [..., t, 2] at the times [t] of objects with start and velocity [..., 2], sway [..., 3]."""
    speed = np.maximum(np.hypot(velocity[..., 0], velocity[..., 1]), 1e-9)[..., None]
    across = velocity[..., ::-1] * np.array([-1.0, 1.0]) / speed
    swing = sway[..., :1] * np.sin(2.0 * np.pi * sway[..., 1:2] * times + sway[..., 2:])
    raw = start[..., None, :] + velocity[..., None, :] * times[:, None] + across[..., None, :] * swing[..., None]
    low = REACH * radius[..., None, None]
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
            low = REACH * radius[:, None]
            start = low + (extent - 2.0 * low) * draws[:, 1:3]
            speed = config.speed[0] + (config.speed[1] - config.speed[0]) * draws[:, 3]
            heading = 2.0 * np.pi * draws[:, 4]
            velocity = speed[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
            sway = np.stack([0.04 * draws[:, 5], 0.1 + 0.2 * draws[:, 6], 2.0 * np.pi * draws[:, 7]], 1)
            path = positions(start, velocity, sway, radius, extent, times)
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
    rng = generator(seed, index, 0)
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
