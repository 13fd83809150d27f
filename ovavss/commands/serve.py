"""`ovavss serve`: the ensemble on a real Triton server on this machine, no container."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from ovavss.commands.process import command
from ovavss.runtime.engines import Format, Precision


@command
def serve(
    engines: Annotated[Path, typer.Option(help="Folder that build_engines.py wrote.")],
    work: Annotated[
        Path | None, typer.Option(help="Folder for the repository and server.log. Default: ENGINES/serve.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="Which engines.")] = Format.ONNX,
    precision: Annotated[Precision, typer.Option(help="Which of the engines.")] = Precision.FP32,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback lets other machines in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="For gRPC.")] = 8001,
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="For HTTP.")] = 8000,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="For Prometheus.")] = 8002,
) -> None:
    """Serve engines with Triton on this machine, for trying out and for tests."""
    from rich.console import Console

    from ovavss.serving.repository import write_repository
    from ovavss.serving.server import Server
    from ovavss.serving.targets import Target

    work = work or engines / "serve"
    repository = work / "repository"
    write_repository(engines, repository, Target.PYTHON, precision, form)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Server(repository, work, host, http_port, port, metrics_port) as server:
            with Console(stderr=True).status("loading the models"):
                server.wait_ready()
            where = f"[{host}]" if ":" in host else host
            print(f"serving at grpc://{where}:{port}, metrics at http://{where}:{metrics_port}/metrics", flush=True)
            print(f"the log is {server.log}; stop with Ctrl-C", flush=True)
            server.watch()
    except KeyboardInterrupt:
        print("stopped")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
