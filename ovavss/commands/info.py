"""`ovavss info`: what a preset's graphs take, give and weigh."""

from typing import Annotated

import typer

from ovavss.commands.options import PresetName
from ovavss.commands.process import command


@command
def info(preset: Annotated[PresetName, typer.Argument(help="Which model.")]) -> None:  # type: ignore[valid-type]
    """Print each graph's inputs, outputs and parameter count."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ovavss.models.ov_avss.graphs import graph_specs
    from ovavss.models.ov_avss.parameters import count_parameters
    from ovavss.models.ov_avss.presets import PRESETS
    from ovavss.runtime.runner import describe

    chosen = PRESETS[preset.value]  # type: ignore[attr-defined]
    counts = count_parameters(chosen)
    table = Table(title=f"preset {chosen.name}", show_lines=True)
    for column in ("graph", "inputs", "outputs"):
        table.add_column(column, overflow="fold")
    table.add_column("parameters", justify="right", no_wrap=True)
    for name, spec in graph_specs(chosen).items():
        inputs, outputs = ("\n".join(f"{t.name} {describe(t)}" for t in part) for part in (spec.inputs, spec.outputs))
        table.add_row(name, escape(inputs), escape(outputs), f"{counts.graphs[name]:,}")
    console = Console()
    console.print(table)
    console.print(f"localization (USSLM): {counts.localization} parameters", highlight=False)
    console.print(f"all, with VGGish and CLIP: {counts.total} parameters", highlight=False)
