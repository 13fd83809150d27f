"""The GPU day: all that only a card can show, in one call of under nine minutes, each figure held to its bound.

    python bench/gpu.py --out runs/gpu --engines engines        # on a machine with an NVIDIA GPU
    python bench/gpu.py --out runs/gpu --rehearse               # anywhere: the CPU stands in for the card

The steps are in bench/gpu_steps.py. Each runs in a process of its own and within its own time, and leaves OUT/NAME.json
as soon as it is done; a failed one does not stop the next. OUT/gpu.json and OUT/gpu.md hold all that are
done. The exit status is 1 where a step failed. `--engines` is the tiny preset's folder with ONNX graphs; without it,
it is built first.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.measuring import ROOT, Cell, Table, header, text_of
from bench.options import run
from ovavss.errors import UserError
from ovavss.files import write_bytes, write_json


def main(
    out: Annotated[Path, typer.Option(help="Folder for the figures.")],
    engines: Annotated[Path | None, typer.Option(help="Of preset tiny, ONNX. Default: built first.")] = None,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Run every step on the CPU.")] = False,
    steps: Annotated[str | None, typer.Option(help="Only these, joined by commas.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="No step goes on longer than this from the start.")] = 9,
    step: Annotated[str | None, typer.Option(hidden=True, help="Run one step in this process.")] = None,
) -> None:
    """Run the steps and write their figures."""
    from bench.gpu_steps import STEPS

    start = time.monotonic()
    if not rehearse and not torch.cuda.is_available():
        raise UserError("there is no NVIDIA GPU that torch can use; pass --rehearse to run the steps on the CPU")
    chosen = list(STEPS) if steps is None else [name.strip() for name in steps.split(",")]
    for name in chosen:
        if name not in STEPS:
            raise UserError(f"--steps '{name}' is unknown; choose of {','.join(STEPS)}")
    out.mkdir(parents=True, exist_ok=True)
    if engines is None:
        engines = out / "engines"
        command = [sys.executable, str(ROOT / "export" / "build_engines.py"), "--preset", "tiny", "--out", str(engines)]
        if subprocess.run(command).returncode:
            raise UserError(f"the graphs of preset tiny could not be built in {engines}")
    if step is not None:
        run_step(step, engines, out, rehearse)
        return
    found, head, end = [], header() | {"rehearsal": rehearse}, start + 60 * minutes
    for name in chosen:
        limit = min(STEPS[name][1], round(end - time.monotonic()))
        found.append(_in_its_process(name, engines, out, rehearse, limit))
        print(f"{name}: {found[-1]['result']} ({found[-1]['seconds']:.0f} s) {found[-1]['why']}", flush=True)
        write_json(out / "gpu.json", head | {"steps": found})
        write_bytes(out / "gpu.md", page(head, found).encode())
    print(f"wrote {out / 'gpu.json'} and {out / 'gpu.md'}")
    if any(one["result"] in ("failed", "out of time") for one in found):
        raise typer.Exit(1)


def _in_its_process(name: str, engines: Path, out: Path, rehearse: bool, limit: int) -> dict[str, Any]:
    file, start = out / f"{name}.json", time.monotonic()
    file.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), "--step", name, "--engines", str(engines), "--out",
               str(out), *(["--rehearse"] if rehearse else [])]  # fmt: skip
    with (out / f"{name}.log").open("w") as log:
        try:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=max(limit, 0))
            why = f"the process ended without a result; see {log.name}"
            result = "failed"
        except subprocess.TimeoutExpired:
            why, result = f"it took more than {limit} s", "out of time"
    found: dict[str, Any] = {"step": name, "result": result, "why": why, "rows": []}
    if file.is_file():
        found = json.loads(file.read_text())
    found["seconds"] = time.monotonic() - start
    write_json(file, found)
    return found


def run_step(name: str, engines: Path, out: Path, rehearse: bool) -> None:
    """Run one step here and write NAME.json: its rows, or why there are none."""
    from bench.gpu_steps import STEPS, Missing, Place

    found: dict[str, Any] = {"step": name, "result": "passed", "why": "", "rows": []}
    place = Place(engines, out, "cpu" if rehearse else "cuda")
    try:
        found["rows"] = STEPS[name][0](place)
    except Missing as error:
        found |= {"result": "skipped", "why": str(error)}
    except UserError as error:
        place.wrong.append(str(error))
    if found["result"] == "passed" and not found["rows"]:
        place.wrong.append("it measured nothing")
    if place.wrong:
        found |= {"result": "failed", "why": "; ".join(place.wrong)}
    write_json(out / f"{name}.json", found)


def page(head: dict[str, Any], steps: Sequence[dict[str, Any]]) -> str:
    """The figures as Markdown: one table of the steps, then one of each."""
    machine = head["machine"]
    where = f"{machine['cpu']} standing in for a card" if head["rehearsal"] else machine["gpu"]
    title = f"# {'Rehearsal' if head['rehearsal'] else 'GPU day'}: {where}"
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    rows: list[list[Cell]] = [[s["step"], s["result"], float(s["seconds"]), s["why"]] for s in steps]
    parts = [title, f"{versions}; commit {head['commit']}", _table(["step", "result", "seconds", "why"], rows)]
    for one in steps:
        if one["rows"]:
            columns = list(dict.fromkeys(key for row in one["rows"] for key in row))
            parts += [f"## {one['step']}", _table(columns, [[row.get(key) for key in columns] for row in one["rows"]])]
    return "\n\n".join(parts) + "\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    table = Table("", columns, rows)
    line = "|" + "|".join("---" if table.is_text(index) else "---:" for index in range(len(columns))) + "|"
    cells = ["| " + " | ".join(text_of(cell).replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(columns) + " |", line, *cells])


if __name__ == "__main__":
    run(main)
