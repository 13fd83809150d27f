"""The closing table of `ovavss segment`."""

import numpy as np
import pytest

from ovavss.output.results import ClipResult, Detection
from ovavss.output.summary import Summary


def window(index: int, labels: list[int], snippets: int = 3) -> ClipResult:
    """Three seconds of 2 x 2 pixels, of which half shows a label (0: nothing)."""
    label_map = np.zeros((3, 2, 2), np.uint8)
    for second, label in enumerate(labels):
        label_map[second, 0] = label
    masks = np.ones((3, 2, 2), bool)
    found = [Detection(0, 0, "dog", 0.4 + index / 10, masks), Detection(1, 0, "dog", 0.3, masks)]
    return ClipResult(index, 3.0 * index, snippets, 3.0 * index + np.arange(3) + 0.5, found, label_map)


def test_occurrences_go_on_over_windows(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(["dog", "[bold]cat"])
    for index, labels in enumerate([[0, 1, 1], [1, 0, 2], [2, 1, 1]]):
        summary.add(window(index, labels, snippets=2 if index == 2 else 3))
    found = [(each.name, each.start, each.end, each.score, each.shares) for each in summary.occurrences]
    assert found == [
        ("dog", 1, 4, pytest.approx(0.5), [0.5, 0.5, 0.5]),
        ("[bold]cat", 5, 7, 0.0, [0.5, 0.5]),
        ("dog", 7, 8, pytest.approx(0.6), [0.5]),
    ]
    summary.print()
    printed = capsys.readouterr().out
    assert "0:01" in printed and "0:04" in printed and "[bold]cat" in printed and "50 %" in printed


def test_long_lists_are_cut_and_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Summary(["dog"]).print()
    assert "nothing was found" in capsys.readouterr().out
    summary = Summary(["dog"])
    for index in range(1300):
        summary.add(window(index, [1, 0, 0]))
    summary.print()
    printed = capsys.readouterr().out
    assert "and 1280 more, in result.json" in printed
    assert (summary.occurrences[-1].start, printed.count("dog")) == (3897, 20)
