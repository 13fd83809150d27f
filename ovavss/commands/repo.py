"""`ovavss repo`: a model repository for a Triton server, with the artifacts in it."""

from pathlib import Path
from typing import Annotated

import typer

from ovavss.commands.process import command
from ovavss.runtime.engines import Format, Precision
from ovavss.serving.targets import Target


@command
def repo(
    engines: Annotated[Path, typer.Option(help="Folder that build_engines.py wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier repository there is replaced.")],
    target: Annotated[
        Target, typer.Option(help="The vendor's container with TensorRT or ONNX Runtime, or any server with Python.")
    ] = Target.TENSORRT,
    precision: Annotated[Precision, typer.Option(help="Which of the engines.")] = Precision.FP32,
    form: Annotated[Format | None, typer.Option("--format", help="With --target python: which engines.")] = None,
    operator: Annotated[
        str | None, typer.Option(help="With --target onnxruntime: path, on the server, of our attention operator.")
    ] = None,
) -> None:
    """Write the Triton model repository of built engines."""
    from ovavss.serving.repository import write_repository

    write_repository(engines, out, target, precision, form, operator)
    print(f"wrote {out}: serve it with triton_repo/compose.yaml, or `ovavss serve` for this machine alone")
