"""The class names that a user gives. Imports nothing heavy, so that a mistake is told at once."""

import html
from collections.abc import Sequence

from ovavss.errors import UserError

LARGEST_VOCABULARY = 65_534  # label maps have 16 bits, and 0 is the background


def _as_clip_reads(name: str) -> str:
    """The name after the cleaning of CLIP's tokenizer: entities resolved, blanks joined, lower case."""
    return " ".join(html.unescape(html.unescape(name)).split()).lower()


def check_names(names: Sequence[str]) -> list[str]:
    """Class names without surrounding blanks; UserError where the list is empty, or a name is empty or there twice."""
    stripped = [name.strip() for name in names]
    if not stripped:
        raise UserError("the list of classes is empty; pass --classes 'man,piano,...'")
    seen: dict[str, str] = {}
    for index, name in enumerate(stripped):
        if not name:
            raise UserError(
                f"class name {index + 1} of {len(stripped)} is empty; remove the extra comma or give it a name"
            )
        if name in stripped[:index]:
            raise UserError(f"class name '{name}' is there twice; remove one")
        other = seen.setdefault(_as_clip_reads(name), name)
        if other != name:
            raise UserError(f"class names '{other}' and '{name}' are the same to CLIP, which ignores case; remove one")
    if len(stripped) > LARGEST_VOCABULARY:
        raise UserError(f"{len(stripped)} class names are too many; give at most {LARGEST_VOCABULARY}")
    return stripped
