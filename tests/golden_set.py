"""Reads a golden set: numbers of the published model (layout: `golden/README.md`).

The folder is `tests/golden`, or what the environment variable OVAVSS_GOLDEN names; names, sizes and the salt come from
its `set.json`, so any set of the same layout can be checked with `pytest -m golden`.
"""

import functools
import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

GOLDEN = Path(os.environ.get("OVAVSS_GOLDEN") or Path(__file__).parent / "golden")
SET: dict = json.loads((GOLDEN / "set.json").read_text())
SALT: str = SET["salt"]


def _seeds() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_seed_weights", GOLDEN / "seed_weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


seeds = _seeds()


@functools.cache
def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of one file, e.g. `load("01_audio")`."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


@functools.cache
def manifest(backbone: str) -> dict[str, dict]:
    """The upstream state_dict's names, shapes, dtypes and crc32: `r50` or `swinb`."""
    return json.loads((GOLDEN / f"weights_manifest_{backbone}.json").read_text())


def seeded_weights(backbone: str, keep: Callable[[str], bool] = lambda name: True) -> dict[str, torch.Tensor]:
    """Upstream-named weights drawn by the golden rule; integer buffers are left out (the model computes them)."""
    return {
        name: torch.from_numpy(seeds.seed_tensor(name, entry["shape"], SALT))
        for name, entry in manifest(backbone).items()
        if keep(name) and not entry["dtype"].startswith("int")
    }


def normal(name: str, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(seeds.normal(name, shape, SALT, scale))


def smooth(name: str, shape: tuple[int, ...], cell: int) -> torch.Tensor:
    return torch.from_numpy(seeds.smooth(name, shape, cell, SALT))


def _slice(text: str) -> tuple[slice | int, ...]:
    def one(part: str) -> slice | int:
        if ":" not in part:
            return int(part)
        return slice(*(int(number) if number else None for number in part.split(":")))

    return tuple(one(part) for part in re.split(r"\s*,\s*", text.strip()))


def bits(file: dict[str, np.ndarray], key: str) -> np.ndarray:
    """A stored boolean tensor."""
    shape = tuple(file[f"{key}__shape"])
    return np.unpackbits(file[f"{key}__bits"], count=int(np.prod(shape))).reshape(shape).astype(bool)


def errors(file: dict[str, np.ndarray], key: str, actual: torch.Tensor) -> np.ndarray:
    """Absolute errors, flat, on all values that the set stores of `key`."""
    value = actual.detach().double().numpy()
    if key in file:
        assert value.shape == file[key].shape, f"{key}: {value.shape} against {file[key].shape}"
        return np.abs(value - file[key]).ravel()
    assert value.shape == tuple(file[f"{key}__shape"]), f"{key}: {value.shape} against {file[f'{key}__shape']}"
    sample = np.abs(value[_slice(str(file[f"{key}__slice"]))] - file[f"{key}__sample"])
    values = np.abs(value.reshape(-1)[file[f"{key}__idx"]] - file[f"{key}__val"])
    return np.concatenate([sample.ravel(), values])


def relative_error(file: dict[str, np.ndarray], key: str, actual: torch.Tensor) -> float:
    """Largest absolute error over the tensor's largest absolute value; of a sampled tensor also mean and deviation."""
    largest = errors(file, key, actual).max()
    if key in file:
        return float(largest / np.abs(file[key]).max())
    value = actual.detach().double().numpy()
    mean, deviation, scale = file[f"{key}__stats"].tolist()
    return float(max(largest, abs(value.mean() - mean), abs(value.std() - deviation)) / scale)
