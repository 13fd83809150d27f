"""`ovavss weights`: what is fetched from package registries, with licenses, and fetching it ahead of use."""

from typing import Annotated

import typer

from ovavss.commands.process import command
from ovavss.errors import UserError

app = typer.Typer(help="Weights and media that package registries hold.", no_args_is_help=True, add_completion=False)


@app.command("list")
@command
def list_packages() -> None:
    """Print every package, what it is for, its license, and whether it is in the cache."""
    from rich.console import Console
    from rich.table import Table

    from ovavss.checkpoints.fetched import fetched_folder, is_fetched, packages

    table = Table()
    for column in ("key", "use", "package", "license", "in the cache"):
        table.add_column(column, overflow="fold")
    for package in packages().values():
        source = f"{package.name} {package.version} ({package.registry})"
        kept = "yes" if is_fetched(package) else "no"
        table.add_row(package.key, package.use, source, package.license, kept)
    console = Console()
    console.print(table)
    console.print(f"cache: {fetched_folder()}", soft_wrap=True, highlight=False)


@app.command("fetch")
@command
def fetch_packages(
    keys: Annotated[
        list[str] | None, typer.Argument(help="Keys of `ovavss weights list`. Default: all weights, no media.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no registry; only check what is there.")] = False,
) -> None:
    """Fetch packages into the cache, so that later runs need no network."""
    from ovavss.checkpoints.fetched import fetch, packages

    known = packages()
    wanted = keys or [key for key, package in known.items() if package.files]
    for key in wanted:
        if key not in known:
            raise UserError(f"there is no package {key}; choose from {', '.join(known)}")
    for key in wanted:
        print(f"{key}: {fetch(key, offline)}")
