"""All commands in one application. Each imports what it needs when it runs, so that `--help` is immediate."""

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
for function in (segment, info, export, train, evaluate, ablate, rewrite, repo, serve):
    app.command()(function)
app.add_typer(weights, name="weights")
