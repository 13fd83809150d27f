"""Files that are written whole or not at all."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ovavss.errors import UserError


def write_json(path: Path, content: Any) -> None:
    """Write JSON under a temporary name, then rename. UserError where the folder cannot be written."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give another path") from error
    finally:
        with suppress(OSError):
            partial.unlink()
