"""`ovavss info`: what a preset's graphs take, give and weigh."""

from typing import Annotated

import typer

from ovavss.commands.process import command
from ovavss.models.systems import OPEN_AVS, AnyPresetName


@command
def info(preset: Annotated[AnyPresetName, typer.Argument(help="Which model.")]) -> None:
    """Print each graph's inputs, outputs and parameter count."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ovavss.models.parameters import count_parameters
    from ovavss.models.systems import find_preset, graph_specs
    from ovavss.pipeline.open_avs import all_names
    from ovavss.runtime.runner import describe

    chosen = find_preset(preset)
    counts = count_parameters(chosen)
    table = Table(title=f"preset {preset}", show_lines=True)
    for column in ("graph", "inputs", "outputs"):
        table.add_column(column, overflow="fold")
    table.add_column("parameters", justify="right", no_wrap=True)
    for name, spec in graph_specs(chosen).items():
        inputs, outputs = ("\n".join(f"{t.name} {describe(t)}" for t in part) for part in (spec.inputs, spec.outputs))
        table.add_row(name, escape(inputs), escape(outputs), f"{counts.graphs[name]:,}")
    console = Console()
    console.print(table)
    if counts.localization is not None:
        console.print(f"localization (USSLM): {counts.localization} parameters", highlight=False)
    everything = "all, with VGGish and CLIP" if counts.localization is not None else "all"
    console.print(f"{everything}: {counts.total} parameters", highlight=False)
    if preset == OPEN_AVS:
        console.print(f"it knows the names {', '.join(all_names())}", highlight=False)
