"""The roofline estimate of the op, counted by hand on a small case."""

import pytest

from bench.studies import msda_roofline as roofline

GPU = roofline.Gpu("made up", bandwidth=1e9, float32=256e9, multiprocessors=1, cores=128, cache=1e6)


def test_counts() -> None:
    # Two frames of 4 + 1 tokens, 8 heads, 2 levels, 4 points: 640 points, 32 channels.
    plain = roofline.work([(2, 2), (1, 1)], 2, 4, fused=False)
    assert plain.memory == 2 * (2 * 5 * 8 * 32 * 4) + 640 * 3 * 4
    assert plain.corners == 640 * 4 * 32 * 4
    assert plain.operations == 640 * (2 * 4 * 32 + 24)
    half = roofline.work([(2, 2), (1, 1)], 2, 2, fused=True)
    assert half.memory == 2 * (2 * 5 * 8 * 32 * 2) + 640 * 3 * 2 + 5 * 2 * 4 and half.frame == 5 * 8 * 32 * 2


def test_bounds() -> None:
    assert GPU.level1 == 128e9  # one multiprocessor at 1 GHz
    found = roofline.bounds(GPU, roofline.Work(memory=2e9, frame=0, corners=128e9, operations=128e9))
    assert found == pytest.approx({"memory": 2.0, "level 1": 1.0, "arithmetic": 0.5})
