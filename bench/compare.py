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
from rich.console import Console
from rich.table import Table

from ovavss.commands.options import command
from ovavss.errors import UserError

Key = tuple[str, str, str]  # part of the report, row, what


def read(folder: Path, part: str) -> dict[str, Any]:
    """One JSON file of a report.

    Raises UserError where it is missing or no object.
    """
    path = folder / f"{part}.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); give two folders that bench/report.py wrote") from error
    if not isinstance(found, dict) or "preset" not in found:
        raise UserError(f"{path} is no measurement; give two folders that bench/report.py wrote")
    return found


def ratios(folder: Path) -> dict[Key, float]:
    """Every ratio of the report in `folder`, by part, row and what it is.

    Raises UserError where the folder holds no report.
    """
    return {key: float(value) for key, value in _ratios(folder) if value is not None}


def _ratios(folder: Path) -> Iterator[tuple[Key, float | None]]:
    for row in read(folder, "speedups")["rows"]:
        yield ("speed-ups", row["name"], "x faster"), row.get("speed_up")
        yield ("speed-ups", row["name"], "x fewer crops"), row.get("fewer_crops")
        yield ("speed-ups", row["name"], "% of ref."), (row.get("share") or {}).get("mean")
    latency = read(folder, "latency")
    for row in [*latency["clips"], *latency["graphs"]]:
        yield ("latency", f"{row['graph']}, {row['runner']}", "x faster"), row["speed_up"]
    for sweep in latency["sweeps"]:
        first, last = sweep["points"][0], sweep["points"][-1]
        yield ("growth", sweep["sweep"], "largest / smallest"), last["p50_ms"] / first["p50_ms"]
    for row in read(folder, "parity")["rows"]:
        for measure, share in (row.get("share") or {}).items():
            yield ("parity", row["name"], f"% of ref., {measure}"), share


@command
def main(
    before: Annotated[Path, typer.Argument(help="Folder that bench/report.py wrote.")],
    after: Annotated[Path, typer.Argument(help="Another.")],
    within: Annotated[float, typer.Option(min=0, help="Percent that a ratio may move.")] = 10,
) -> None:
    """Say which ratios differ between two reports."""
    heads = [read(folder, "speedups") for folder in (before, after)]
    presets = [head["preset"] for head in heads]
    if presets[0] != presets[1]:
        raise UserError(f"{before} is of {presets[0]} and {after} of {presets[1]}; give two of one preset")
    console, old, new = Console(width=150), ratios(before), ratios(after)
    for head in heads:
        head["machine"].pop("load", None)
    for key in ("machine", "versions", "commit"):
        if heads[0][key] != heads[1][key]:
            console.print(f"{key}: {heads[0][key]} before, {heads[1][key]} after", highlight=False)
    made = Table(title=f"{presets[0]}: ratios that moved by more than {within:g} %")
    for column in ("part", "row", "what", "before", "after", "change %"):
        made.add_column(column, justify="left" if column in ("part", "row", "what") else "right")
    both = [key for key in old if key in new]
    changes = {key: 0.0 if new[key] == old[key] else 100 * (new[key] / (old[key] or 1e-9) - 1) for key in both}
    moved = [key for key in both if abs(changes[key]) > within]
    for key in sorted(moved, key=lambda key: -abs(changes[key])):
        made.add_row(*key, f"{old[key]:.4g}", f"{new[key]:.4g}", f"{changes[key]:+.1f}")
    if moved:
        console.print(made)
    if alone := [key for key in [*old, *new] if not (key in old and key in new)]:
        console.print("only in one: " + "; ".join(" ".join(key) for key in alone), highlight=False)
    if not both:
        raise UserError(f"{before} and {after} have no row in common; give two reports of the same engines")
    print(f"{len(both) - len(moved)} of {len(both)} ratios within {within:g} %")
    if moved:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
