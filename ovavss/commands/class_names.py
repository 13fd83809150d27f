"""The names that a user gives on the command line."""

import json
from pathlib import Path

from ovavss.errors import UserError
from ovavss.files import check_regular_file
from ovavss.pipeline.names import check_names


def parse_classes(classes: str) -> list[str]:
    """Reads the names of `a,b,c`, or of `@FILE`.

    Raises:
        UserError: The file cannot be read, there is no name, or one is empty or there twice.
    """
    if not classes.startswith("@"):
        return check_names(classes.split(",") if classes.strip() else [])
    path = Path(classes[1:])
    check_regular_file(path)
    try:
        return check_names(names_in(path.read_text(encoding="utf-8-sig"), path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the class list {path} cannot be read ({error}); give a UTF-8 text file with one name a line"
        ) from error


def names_in(text: str, path: Path) -> list[str]:
    """Finds the names of a class list.

    One a line (empty lines are passed over), one line with commas, or a JSON list.
    """
    if text.lstrip().startswith(("[", "{")):
        try:
            names = json.loads(text)
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"the class list {path} is not a JSON list of names; give one name a line")
        return names
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0].split(",") if len(lines) == 1 else lines
