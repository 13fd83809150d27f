"""Files that are written whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ovavss.errors import UserError

_MARK = ".partial-"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed at the end; UserError where the disk is full or cannot be written."""
    partial = partial_path(path)
    try:
        remove_leftovers(path.parent, path.name)
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"the disk is full: {path} could not be written; free some space and run the command again"
            ) from error
        raise UserError(f"{path} cannot be written ({error.strerror}); give another path") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """`content` as the file `path`. Raises as `written_whole`."""
    with written_whole(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """JSON as the file `path`, whose folder is made. Raises as `written_whole`."""
    with written_whole(path) as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=2) + "\n")


def write_torch(path: Path, content: Any) -> None:
    """What `torch.save` writes as the file `path`. Raises as `written_whole`."""
    import torch

    with written_whole(path) as partial, partial.open("wb") as file:
        torch.save(content, file)


def sha256(path: Path) -> str:
    """The hash of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def partial_path(path: Path) -> Path:
    """The temporary name of a file or folder that this process writes."""
    return path.with_name(f".{path.name}{_MARK}{os.getpid()}")


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Removes what killed processes left in a folder under temporary names: of one file or folder, or of all."""
    for path in folder.glob(f".*{_MARK}*"):
        written, _, owner = path.name[1:].rpartition(_MARK)
        if (name and written != name) or not owner.isdigit() or Path(f"/proc/{owner}").exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_regular_file(path: Path) -> None:
    """Raises UserError for a pipe, a socket or a device, which cannot be read twice and may never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        kind = "pipe" if path.is_fifo() else "device"
        raise UserError(f"{path} is a {kind}, which cannot be read twice; give a file")
