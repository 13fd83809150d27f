"""Two pages of the site are written from the code: the command line, and the table of presets."""

from typing import Any


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Appends what is generated; mkdocs calls this for every page."""
    if page.file.src_uri == "reference/command-line.md":
        return markdown + _commands()
    if page.file.src_uri == "reference/presets.md":
        return markdown + _presets()
    return markdown


def _commands() -> str:
    """The options of every command, as `--help` prints them."""
    import typer.main
    from typer.cli import get_docs_for_click

    from ovavss.commands.app import app

    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="ovavss")
    text = "\n".join(
        get_docs_for_click(obj=group.get_command(context, name), ctx=context, name=name, indent=1, call_prefix="ovavss")
        for name in group.list_commands(context)
    )
    return text.replace("list[Path]", "path, several times")


def _presets() -> str:
    """A row for each preset of OV-AVSS."""
    from ovavss.models.ov_avss.presets import PRESETS, ResNetConfig
    from ovavss.models.parameters import count_parameters

    rows = [
        "\n| preset | backbone | CLIP | queries | network's short side | window | parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for preset in PRESETS.values():
        kind = "ResNet" if isinstance(preset.backbone, ResNetConfig) else "Swin"
        rows.append(
            f"| `{preset.name}` | {kind}, {preset.backbone.channels[-1]} channels | {preset.clip.name} "
            f"at {preset.clip.image_size} | {preset.mask_decoder.num_queries} | {preset.short_side} px "
            f"| {preset.snippets} s | {count_parameters(preset).total / 1e6:.1f} M |"
        )
    return "\n".join(rows) + "\n"
