"""Fits, percentiles, turns and memory against known answers."""

import os
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from bench import measuring
from ovavss.errors import UserError


def test_a_power_law_is_found() -> None:
    sizes = [1, 2, 5, 10]
    assert measuring.power_law(sizes, [3 * size**1.7 for size in sizes]) == pytest.approx((1.7, 1.0))
    assert measuring.power_law(sizes, [4.0] * 4)[0] == pytest.approx(0)
    assert np.isnan(measuring.power_law([5], [1.0])[0])


def test_percentiles_are_in_milliseconds() -> None:
    found = measuring.percentiles([[i / 1000 for i in range(60)], [i / 1000 for i in range(60, 101)]])
    assert [found[key] for key in ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "n")] == pytest.approx(
        [50, 90, 99, 50, 101]
    )


def test_a_ratio_compares_rounds_side_by_side() -> None:
    # A machine that becomes ten times slower half way does not change the ratio.
    assert measuring.ratio([2.0, 2.0, 20.0, 20.0], [1.0, 1.0, 10.0, 10.0]) == 2


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    backends = {name: partial(calls.append, name) for name in "ab"}
    found = measuring.interleaved_benchmark(backends, rounds=3, min_turn=0)
    assert "".join(calls) == "ab" + "ababab" and [len(turns) for turns in found.values()] == [3, 3]


def test_short_calls_fill_a_turn_and_its_first_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "timed", lambda run: (run(), None))
    seconds = iter([0.5, 0.09, 0.04, 0.04, 0.04, 0.5])  # the warm-up; a slow call, then quick ones; a long call
    assert measuring.interleaved_benchmark({"a": lambda: next(seconds)}, 2, min_turn=0.1) == {"a": [[0.04] * 3, [0.5]]}


def touch(mebibytes: int) -> Callable[[], object]:
    """Loads nothing; the run fills that much memory."""
    return lambda: np.ones(mebibytes * 2**20, np.uint8).sum()


def fail() -> Callable[[], object]:
    raise ValueError("no such thing\nand more")


def test_peak_memory_is_that_of_its_own_process() -> None:
    ballast = np.ones(300 * 2**20, np.uint8)  # of this process, so none of the other's
    small, large = (measuring.peak_memory(touch, size) for size in (1, 200))
    assert 180 < (large["peak"] - large["loaded"]) - (small["peak"] - small["loaded"]) < 220
    assert ballast[0] == 1


def test_a_process_that_fails_is_told_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"peak memory could not be measured: ValueError: no such thing$"):
        measuring.peak_memory(fail)


def test_the_head_of_a_file() -> None:
    found = measuring.header()
    assert found["machine"]["cores"] == os.cpu_count() and found["versions"]["torch"]
    assert found["commit"] == "unknown" or len(found["commit"].removesuffix("+changes")) == 40
