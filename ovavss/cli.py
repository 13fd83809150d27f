"""The `ovavss` command. Each command imports what it needs when it runs, so that `--help` is frame_position."""

import typer

from ovavss.commands.ablate import ablate
from ovavss.commands.evaluate import evaluate
from ovavss.commands.export import export
from ovavss.commands.info import info
from ovavss.commands.repo import repo
from ovavss.commands.rewrite import rewrite
from ovavss.commands.segment import segment
from ovavss.commands.serve import serve
from ovavss.commands.train import train
from ovavss.commands.weights import app as weights

app = typer.Typer(
    help="Open-vocabulary audio-visual semantic segmentation, from PyTorch to production.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(segment)
app.command()(info)
app.command()(export)
app.command()(train)
app.command()(evaluate)
app.command()(ablate)
app.command()(rewrite)
app.command()(repo)
app.command()(serve)
app.add_typer(weights, name="weights")


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
