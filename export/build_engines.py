"""Builds the exported graphs of a preset: the same command as `ovavss export`."""

import typer

from ovavss.commands.export import export

if __name__ == "__main__":
    typer.run(export)
