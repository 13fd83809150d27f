"""A training run on disk: checkpoints, a CSV log, curves, progress; killed and started again, it goes on."""

import csv
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ovavss.errors import UserError
from ovavss.training.clips import Batch, Clips
from ovavss.training.trainer import Trainer

CHECKPOINT, LOG, CURVES = "last.pt", "log.csv", "curves.png"
COLUMNS = ("iteration", "seconds", "loss", "loss_ce", "loss_mask", "loss_dice", "gradient", "lr")


class TrainingLog:
    """log.csv: one row for every `every` iterations, each figure the mean over them.

    Rows after the iteration that a run resumes from are dropped, so the file looks as if it had never stopped.
    """

    def __init__(self, path: Path, every: int, iteration: int) -> None:
        self.path, self.every = path, every
        rows = [row for row in read_log(path) if row["iteration"] <= iteration] if iteration else []
        self.before = rows[-1]["seconds"] if rows else 0.0
        self.started = time.monotonic()
        self.sums: dict[str, float] = {}
        self.count = 0
        try:
            self.file = path.open("w", newline="")
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}): check that its folder is writable") from None
        self.writer = csv.DictWriter(self.file, COLUMNS, lineterminator="\n")
        self.writer.writeheader()
        self.writer.writerows({k: _short(k, v) for k, v in row.items()} for row in rows)
        self.file.flush()

    def add(self, iteration: int, figures: dict[str, float]) -> None:
        """Figures of one iteration (counted from 1)."""
        self.count += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if iteration % self.every == 0:
            row = {name: value / self.count for name, value in self.sums.items()}
            row |= {"iteration": iteration, "seconds": self.before + time.monotonic() - self.started}
            self.writer.writerow({k: _short(k, row[k]) for k in COLUMNS})
            self.file.flush()
            self.sums, self.count = {}, 0

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _short(name: str, value: float) -> str:
    return str(int(value)) if name == "iteration" else f"{value:.6g}"


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log.csv; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def draw_curves(log: Path, picture: Path) -> None:
    """Losses and learning rate of a log.csv as a PNG; nothing where there are no two rows yet."""
    rows = read_log(log)
    if len(rows) < 2:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    losses, rate = figure.subplots(1, 2, width_ratios=(3, 1))
    x = [row["iteration"] for row in rows]
    for name, label in (("loss_ce", "class"), ("loss_mask", "mask"), ("loss_dice", "dice")):
        losses.plot(x, [row[name] for row in rows], label=label, linewidth=1)
    losses.set(xlabel="iteration", ylabel="loss of the last head", yscale="log")
    losses.legend(frameon=False)
    rate.plot(x, [row["lr"] for row in rows], color="gray", linewidth=1)
    rate.set(xlabel="iteration", ylabel="learning rate")
    figure.savefig(picture, dpi=120)


def _batches(trainer: Trainer, clips: Clips, last: int) -> Iterator[Batch]:
    """The batches up to iteration `last`; the next one is read while the present one trains."""
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(trainer.load, clips, trainer.iteration)
        for iteration in range(trainer.iteration, last):
            batch = pending.result()
            if iteration + 1 < last:
                pending = reader.submit(trainer.load, clips, iteration + 1)
            yield batch


def run(
    trainer: Trainer,
    clips: Clips,
    folder: Path,
    *,
    checkpoint_every: int = 2000,
    log_every: int = 20,
    stop_after: int | None = None,
    console: Console | None = None,
) -> None:
    """Trains to the end of the recipe, or to iteration `stop_after`, from where the folder's checkpoint stopped.

    Writes last.pt, log.csv and curves.png into `folder` (the first process alone).

    Raises:
        UserError: the folder cannot be written, or its checkpoint is of another run.
    """
    first = trainer.rank == 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): give another folder with --out") from None
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        trainer.resume(checkpoint)
    last = min(trainer.recipe.iterations, stop_after or trainer.recipe.iterations)
    log = TrainingLog(folder / LOG, log_every, trainer.iteration) if first else None
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console or Console(stderr=True), disable=not first) as progress:
        task = progress.add_task("", total=last, completed=trainer.iteration)
        for batch in _batches(trainer, clips, last):
            figures = trainer.step(batch)
            progress.update(task, completed=trainer.iteration, description=f"loss {figures['loss']:.3f}")
            if log is not None:
                log.add(trainer.iteration, figures)
                if trainer.iteration % checkpoint_every == 0 or trainer.iteration == last:
                    trainer.save(checkpoint)
                    draw_curves(folder / LOG, folder / CURVES)
    if log is not None:
        log.close()
