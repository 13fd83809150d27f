"""Two reports side by side: which ratio moved, between two runs, two commits or two machines.

    python bench/compare.py OUT_BEFORE OUT_AFTER [--within 10]

Reads the JSON files that bench/report.py left in both folders. Compared are ratios of things that ran side by side
(times faster, times fewer crops, percent of the reference's mIoU) and how time grows from the smallest size of a sweep
to the largest. Times in seconds are not: they are the machine's. Exit 1 where one moved by more than `--within` %.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.measuring import Cell, Table
from bench.options import run
from ovavss.errors import UserError

Key = tuple[str, str, str]  # part of the report, row, what


def read(folder: Path, part: str) -> dict[str, Any]:
    """One JSON file of a report; UserError where it is missing or no measurement."""
    path, how = folder / f"{part}.json", "give two folders that bench/report.py wrote"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {how}") from error
    if not isinstance(found, dict) or "preset" not in found:
        raise UserError(f"{path} is no measurement; {how}")
    return found


def ratios(folder: Path) -> dict[Key, float]:
    """Every ratio of the report in `folder`, by part, row and what it is."""
    return {key: float(value) for key, value in _ratios(folder) if value is not None}


def _ratios(folder: Path) -> Iterator[tuple[Key, float | None]]:
    for row in read(folder, "speedups")["rows"]:
        yield ("speed-ups", row["name"], "x faster"), row.get("speed_up")
        yield ("speed-ups", row["name"], "x fewer crops"), row.get("fewer_crops")
        yield ("speed-ups", row["name"], "% of reference"), (row.get("share") or {}).get("mean")
    latency = read(folder, "latency")
    for row in [*latency["clips"], *latency["graphs"]]:
        yield ("latency", f"{row['graph']}, {row['runner']}", "x faster"), row["speed_up"]
    for sweep in latency["sweeps"]:
        first, last = sweep["points"][0], sweep["points"][-1]
        yield ("growth", sweep["sweep"], "largest / smallest"), last["p50_ms"] / first["p50_ms"]
    for row in read(folder, "parity")["rows"]:
        for measure, share in (row.get("share") or {}).items():
            yield ("parity", row["name"], f"% of reference, {measure}"), share


def main(
    before: Annotated[Path, typer.Argument(help="Folder that bench/report.py wrote.")],
    after: Annotated[Path, typer.Argument(help="Another.")],
    within: Annotated[float, typer.Option(min=0, help="Percent that a ratio may move.")] = 10,
) -> None:
    """Say which ratios differ between two reports; exit 1 where one does."""
    one, two = (read(folder, "speedups") for folder in (before, after))
    if one["preset"] != two["preset"]:
        raise UserError(f"{before} is of {one['preset']} and {after} of {two['preset']}; give two of one preset")
    for head in (one, two):
        head["machine"].pop("load", None)
    for key in ("machine", "versions", "commit"):
        if one[key] != two[key]:
            print(f"{key}: {one[key]} before, {two[key]} after")
    old, new = ratios(before), ratios(after)
    both = [key for key in old if key in new]
    if not both:
        raise UserError(f"{before} and {after} have no row in common; give two reports of the same engines")
    changes = {key: 0.0 if new[key] == old[key] else 100 * (new[key] / (old[key] or 1e-9) - 1) for key in both}
    moved = sorted((key for key in both if abs(changes[key]) > within), key=lambda key: -abs(changes[key]))
    rows: list[list[Cell]] = [[*key, old[key], new[key], f"{changes[key]:+.1f}"] for key in moved]
    if rows:
        title = f"{one['preset']}: ratios that moved by more than {within:g} %"
        Table(title, ["part", "row", "what", "before", "after", "change %"], rows).print(150)
    if alone := [key for key in [*old, *new] if not (key in old and key in new)]:
        print("only in one: " + "; ".join(" ".join(key) for key in alone))
    print(f"{len(both) - len(moved)} of {len(both)} ratios within {within:g} %")
    if moved:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
