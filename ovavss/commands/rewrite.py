"""`ovavss rewrite`: deformable attention in a stranger's ONNX model becomes our op."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovavss.commands.process import command
from ovavss.msda.onnx_node import PLAIN, FallbackBody

if TYPE_CHECKING:
    from ovavss.msda.rewrite.find import Occurrence
    from ovavss.msda.rewrite.model import Report


@command
def rewrite(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="Any ONNX model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="File to write.")],
    attention_body: Annotated[
        FallbackBody, typer.Option(help="What runs where neither our plugin nor our custom op is.")
    ] = FallbackBody.GRID_SAMPLE,
) -> None:
    """Replace deformable attention spelled as GridSample (RT-DETR, Mask2Former, Grounding DINO) with our op."""
    from ovavss.msda.rewrite import files
    from ovavss.msda.rewrite.model import rewrite as rewrite_model

    loaded = files.read(model)
    files.check_output(out)
    report = rewrite_model(loaded, model.parent, attention_body)
    files.write(loaded, model, out, changed=bool(report.replaced))
    _print(report, out)


def _print(report: "Report", out: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if report.replaced:
        table = Table(title=f"replaced with {PLAIN}")
        for column in ("attention", "levels (h x w)", "heads", "points"):
            table.add_column(column, overflow="fold")
        for occurrence in report.replaced:
            table.add_row(
                escape(occurrence.output), escape(_levels(occurrence)), str(occurrence.heads), str(occurrence.points)
            )
        console.print(table)
    for refused in report.left:
        console.print(f"left as it is: {escape(refused.node)}: {escape(refused.reason)}", soft_wrap=True)
    count = len(report.replaced)
    if count:
        told = f"wrote {out}: {count} deformable attention{'s' * (count > 1)} replaced"
    else:
        told = f"wrote {out}: the model holds no deformable attention that could be replaced, and is unchanged"
    console.print(escape(told), soft_wrap=True)


def _levels(occurrence: "Occurrence") -> str:
    sizes = [f"{h} x {w}" if h.is_Integer and w.is_Integer else "dynamic" for h, w in occurrence.level_sizes]
    return f"{occurrence.levels}: {', '.join(sizes)}" if "dynamic" not in sizes else f"{occurrence.levels}: dynamic"
