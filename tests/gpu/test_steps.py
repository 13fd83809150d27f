"""The steps of bench/gpu.py on a card, with the same bounds: `pytest -m gpu`."""

from pathlib import Path

import pytest
import torch

from bench.gpu_steps import STEPS, Missing, Place

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]


@pytest.mark.parametrize("name", STEPS)
def test_step(name: str, tiny_engines: Path, tmp_path: Path) -> None:
    place = Place(tiny_engines, tmp_path)
    try:
        assert STEPS[name][0](place)
    except Missing as error:
        pytest.skip(str(error))
    assert not place.wrong
