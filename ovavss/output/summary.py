"""What was found in a video, in a few lines: when each name is outlined, how surely, and how much of the picture."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ovavss.output.results import ClipResult

_ROWS = 20


@dataclass
class Occurrence:
    """A name in consecutive seconds.

    Attributes:
        name: Of the classes that were given.
        start: Seconds from the start of the video.
        end: The same; the end of the last second.
        score: The best score of its detections, in [0, 1].
        shares: Of each second, the part of the picture that it covers, in [0, 1].
    """

    name: str
    start: float
    end: float
    score: float
    shares: list[float] = field(default_factory=list)


class Summary:
    """Gathers the occurrences of each name in the label maps, window by window.

    Args:
        names: The classes, by index.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._last: dict[int, Occurrence] = {}
        self.occurrences: list[Occurrence] = []

    def add(self, result: ClipResult) -> None:
        """Takes the next window."""
        scores: dict[int, float] = {}
        for found in result.detections:
            scores[found.label] = max(found.score, scores.get(found.label, 0.0))
        for second in range(result.snippets):
            start = result.start + second
            label_map = result.label_map[second]
            values, counts = np.unique(label_map, return_counts=True)
            for value, count in zip(values.tolist(), counts.tolist()):
                if value:
                    self._add(value - 1, start, scores.get(value - 1, 0.0), count / label_map.size)

    def _add(self, label: int, start: float, score: float, share: float) -> None:
        last = self._last.get(label)
        if last is None or last.end < start:
            last = self._last[label] = Occurrence(self._names[label], start, start, score)
            self.occurrences.append(last)
        last.end, last.score = start + 1, max(last.score, score)
        last.shares.append(share)

    def print(self) -> None:
        """Prints a table of the first occurrences, or that nothing was found."""
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        console = Console()
        if not self.occurrences:
            console.print("nothing was found that sounds and has one of the names", highlight=False)
            return
        table = Table()
        for column in ("from", "to", "name", "score", "of the picture"):
            table.add_column(column, justify="left" if column == "name" else "right", overflow="fold")
        for each in self.occurrences[:_ROWS]:
            share = f"{100 * sum(each.shares) / len(each.shares):.0f} %"
            table.add_row(_clock(each.start), _clock(each.end), escape(each.name), f"{each.score:.2f}", share)
        console.print(table)
        if len(self.occurrences) > _ROWS:
            console.print(f"and {len(self.occurrences) - _ROWS} more, in result.json", highlight=False)


def _clock(seconds: float) -> str:
    """For instance `1:05`, and with hours `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
