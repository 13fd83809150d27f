"""What a build prints: a line that says what is being done, and a table at the end."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ovavss.export.verify import COSINE_MEAN
from ovavss.runtime.engines import Artifact, Format, Precision, artifact_key


class BuildReport:
    """A context manager; while it lasts, standard error shows what `say` was last given."""

    def __init__(self, title: str) -> None:
        self.table = Table(title=title)
        for column in ("artifact", "size", "difference from PyTorch", "seconds"):
            self.table.add_column(column, justify="right" if column in ("size", "seconds") else "left")
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self.progress = Progress(*columns, transient=True, console=Console(stderr=True))
        self.task = self.progress.add_task("")

    def __enter__(self) -> "BuildReport":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """Shows what is being done."""
        self.progress.update(self.task, description=text)

    def add(self, artifact: Artifact, kept: bool) -> None:
        """Adds a row."""
        seconds = "kept" if kept else f"{artifact.seconds:.1f}"
        self.table.add_row(artifact.file, f"{artifact.size / 2**20:.1f} MiB", _difference(artifact), seconds)

    def print(self, refused: Mapping[tuple[Format, Precision], str]) -> None:
        """Prints the table, and each reason why something was not built."""
        Console().print(self.table)
        for reason in dict.fromkeys(refused.values()):
            keys = [artifact_key(*target) for target, why in refused.items() if why == reason]
            print(f"{', '.join(keys)} not built: {reason}")


def _difference(artifact: Artifact) -> str:
    values = artifact.difference
    if not values:
        return f"[dim]{artifact.not_run}[/dim]"
    if COSINE_MEAN in values:
        return f"cosine 1 - {values[COSINE_MEAN]:.1e}"
    if "sign_flips" in values:
        return f"mean {values['mask_logits_mean']:.1e}, signs {values['sign_flips']:.0e}"
    return f"{max(values.values()):.1e}"
