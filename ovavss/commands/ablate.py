"""`ovavss ablate`: the paper's ablations on the synthetic world, in one table."""

from pathlib import Path
from typing import Annotated

import typer

from ovavss.commands.process import command


@command
def ablate(
    work: Annotated[Path, typer.Option(help="Work folder of `ovavss train`; finished stages there are used.")],
    json: Annotated[Path | None, typer.Option(help="Write all figures here.")] = None,
    iterations: Annotated[int, typer.Option(min=1, help="Of each localizer: a short schedule.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Held-out world.")] = 1000,
    num_clips: Annotated[int, typer.Option(min=1, help="How many clips of it.")] = 100,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Tables 3 to 5 of the paper on the synthetic world.

    Train tiny with each fusion and each audio prompt on a short schedule, then score every one of them, and the default
    with each crop and choice of proposals.
    """
    import torch
    from rich.console import Console
    from rich.table import Table

    from ovavss.evaluation.report import summary
    from ovavss.files import write_json
    from ovavss.models.ov_avss.presets import PRESETS
    from ovavss.training.recipes.ablation import Row, run_ablations

    if threads is not None:
        torch.set_num_threads(threads)

    def tell(row: Row) -> None:
        print(f"{row.variant.table}, {row.variant.name}: {summary(row.result)}", flush=True)

    rows = run_ablations(PRESETS["tiny"], work, iterations, seed, num_clips, tell)
    table = Table(title=f"tiny, {iterations} iterations each, {num_clips} clips of world {seed}: IoU in percent")
    for column in ("table", "variant", "base", "novel", "harmonic", "mean", "foreground"):
        table.add_column(column, justify="left" if column in ("table", "variant") else "right")
    for row in rows:
        scores = row.result.scores
        values = (scores.base, scores.novel, scores.harmonic, scores.mean, row.result.foreground)
        table.add_row(row.variant.table, row.variant.name, *(f"{100 * value:.1f}" for value in values))
    Console().print(table)
    if json is not None:
        content = [{"table": r.variant.table, "variant": r.variant.name, **r.result.figures()} for r in rows]
        write_json(json, {"iterations": iterations, "seed": seed, "rows": content})
