"""`ovavss rewrite`: deformable attention in a stranger's ONNX model becomes our op."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovavss.commands.process import command
from ovavss.errors import UserError
from ovavss.msda.onnx_node import PLAIN, FallbackBody

if TYPE_CHECKING:
    from rich.console import Console

    from ovavss.msda.rewrite.check import Difference
    from ovavss.msda.rewrite.model import Report
    from ovavss.msda.rewrite.occurrence import Occurrence

_NAMES_SHOWN = 3


@command
def rewrite(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="Any ONNX model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="File to write.")],
    attention_body: Annotated[
        FallbackBody, typer.Option(help="What runs where neither our plugin nor our custom op is.")
    ] = FallbackBody.GRID_SAMPLE,
    report: Annotated[bool, typer.Option("--report", help="List each GridSample: what took it, or why not.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Run both models on random inputs in ONNX Runtime, and compare.")
    ] = False,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SIZE", help="A dynamic axis' size for --check; may be given several times."),
    ] = None,
) -> None:
    """Replace deformable attention spelled as GridSample (RT-DETR, Mask2Former, Grounding DINO) with our op."""
    from rich.console import Console

    from ovavss.msda.rewrite import files
    from ovavss.msda.rewrite.model import rewrite as rewrite_model

    if size and not check:
        raise UserError("--size is for --check alone; give --check too, or leave --size out")
    sizes = _parse_sizes(size or [])
    loaded = files.read(model)
    files.check_output(out)
    done = rewrite_model(loaded, model.parent, attention_body)
    console = Console(highlight=False)
    if check and done.replaced:
        from ovavss.msda.rewrite.check import differences, reference

        expected = reference(model, sizes)
        files.write(loaded, model, out, changed=True)
        _print_differences(console, differences(expected, out), out)
    else:
        files.write(loaded, model, out, changed=bool(done.replaced))
    _print(console, done, out, report)


def _parse_sizes(options: list[str]) -> dict[str, int]:
    sizes = {}
    for option in options:
        name, _, number = option.rpartition("=")
        if not name or not number.isdigit() or int(number) < 1:
            raise UserError(f"--size {option} is not NAME=SIZE; give for instance --size height=640")
        if name in sizes:
            raise UserError(f"--size gives {name} twice; give it once")
        sizes[name] = int(number)
    return sizes


def _print(console: "Console", done: "Report", out: Path, all_nodes: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    if done.replaced:
        table = Table(title=f"replaced with {PLAIN}")
        for column in ("attention", "levels (h x w)", "heads", "points"):
            table.add_column(column, overflow="fold")
        for occurrence in done.replaced:
            table.add_row(
                escape(occurrence.output), escape(_levels(occurrence)), str(occurrence.heads), str(occurrence.points)
            )
        console.print(table)
    if all_nodes:
        for occurrence in done.replaced:
            for node in occurrence.samplers:
                console.print(f"taken: {escape(node)}: by {escape(occurrence.output)}", soft_wrap=True)
    reasons: dict[str, list[str]] = {}
    for refused in done.left:
        reasons.setdefault(refused.reason, []).append(refused.node)
    for reason, nodes in reasons.items():
        groups = [[node] for node in nodes] if all_nodes else [nodes]
        for group in groups:
            console.print(f"left as it is: {escape(_some(group))}: {escape(reason)}", soft_wrap=True)
    count, taken, left = len(done.replaced), sum(len(o.samplers) for o in done.replaced), len(done.left)
    if count:
        message = f"wrote {out}: {count} deformable attention{'s' * (count > 1)} replaced"
        message += f"; {left} of {taken + left} GridSample nodes left" if left else ""
    else:
        message = f"wrote {out}: the model holds no deformable attention that could be replaced, and is unchanged"
        message += f"; it has {left} GridSample node{'s' * (left > 1)}" if left else ""
    console.print(escape(message), soft_wrap=True)


def _some(nodes: list[str]) -> str:
    shown = nodes if len(nodes) <= _NAMES_SHOWN + 1 else [*nodes[:_NAMES_SHOWN], f"{len(nodes) - _NAMES_SHOWN} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _levels(occurrence: "Occurrence") -> str:
    sizes = [f"{h} x {w}" if h.is_Integer and w.is_Integer else "dynamic" for h, w in occurrence.level_sizes]
    return f"{occurrence.levels}: {', '.join(sizes)}" if "dynamic" not in sizes else f"{occurrence.levels}: dynamic"


def _print_differences(console: "Console", found: "list[Difference]", out: Path) -> None:
    """Prints the comparison; a model that differs by more than rounding is removed again, with a UserError."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="before and after, on random inputs")
    for column in (
        "output",
        "attention run by",
        "largest difference",
        "largest value",
        "tolerance",
        "entries within it",
    ):
        table.add_column(column, overflow="fold")
    for one in found:
        entries = f"{100 * one.equal_entries:.2f} %"
        table.add_row(
            escape(one.output), one.variant, f"{one.largest:.2e}", f"{one.scale:.2e}", f"{one.tolerance:.2e}", entries
        )
    console.print(table)
    worst = [one for one in found if not one.small]
    if worst:
        for path in (out, out.with_name(f"{out.name}.data")):
            path.unlink(missing_ok=True)
        raise UserError(
            f"output {worst[0].output!r} of the rewritten model differs from the original's ({worst[0].variant}); "
            f"{out} was removed again, please report it"
        )
