"""Files that are written whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovavss.errors import UserError

_MARK = ".partial-"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed at the end; UserError where the disk is full or cannot be written."""
    partial = path.with_name(f".{path.name}{_MARK}{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """`content` as the file `path`."""
    with written_whole(path) as partial:
        partial.write_bytes(content)


def disk_error(path: Path, error: OSError) -> UserError:
    """The sentence for a file that cannot be written."""
    if error.errno == errno.ENOSPC:
        return UserError(f"the disk is full: {path} could not be written; free some space and run the command again")
    return UserError(f"{path} cannot be written ({error.strerror}); check the folder")


def remove_leftovers(folder: Path) -> None:
    """What a killed build left under temporary names."""
    for path in folder.glob(f".*{_MARK}*"):
        owner = path.name.rpartition(_MARK)[2]
        if not (owner.isdigit() and Path(f"/proc/{owner}").exists()):
            path.unlink(missing_ok=True)
