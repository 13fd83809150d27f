"""What an evaluation prints and draws: the four measures, a table of classes, a picture of confusions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from ovavss.datasets.avsbench_ov import CategoryTable
from ovavss.evaluation.evaluate import Evaluation
from ovavss.files import written_whole


def class_table(result: Evaluation, table: CategoryTable) -> Table:
    """IoU of each class that occurs, base and novel apart."""
    printed = Table(title="IoU of each class in percent")
    printed.add_column("class")
    printed.add_column("group")
    printed.add_column("IoU", justify="right")
    for index, name in enumerate(("background", *table.names)):
        value = result.scores.class_iou[index]
        group = "base" if index in table.base_ids else "novel" if index in table.novel_ids else ""
        if not np.isnan(value):
            printed.add_row(name, group, f"{100 * value:.1f}")
    return printed


def summary(result: Evaluation) -> str:
    """The measures in one line."""
    scores = result.scores
    text = f"{result.clips} clips: " + ", ".join(
        f"{name} {100 * value:.2f}"
        for name, value in (
            ("base", scores.base), ("novel", scores.novel), ("harmonic", scores.harmonic), ("mean", scores.mean),
            ("foreground", result.foreground),
        )
    )  # fmt: skip
    if not np.isnan(result.binary_miou):
        text += f"; sound map: mIoU {100 * result.binary_miou:.2f}, F {100 * result.binary_f:.2f}"
    return text + f"; {100 * result.empty:.1f} % of the maps are empty"


def draw_confusions(result: Evaluation, names: Sequence[str], path: Path) -> None:
    """The confusion matrix as a picture: rows are the truth, each row sums to 1; written whole or not at all."""
    from matplotlib.figure import Figure

    counts = result.matrix.counts.astype(float)
    present = np.flatnonzero(counts.sum(0) + counts.sum(1))
    shares = counts[np.ix_(present, present)]
    shares = shares / np.maximum(shares.sum(1, keepdims=True), 1)
    labels = [("background", *names)[index] for index in present]
    side = max(5.0, 0.24 * len(present) + 2.5)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="magma", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    figure.colorbar(image, shrink=0.7, label="share of the truth's pixels")
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
