"""How commands end: signals, pipes in place of files, terminals that lack a letter, what killed runs left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ovavss.errors import UserError
from ovavss.files import check_regular_file, remove_leftovers, write_json

GONE = 4194999  # above the largest process number of Linux
IN_WRITER = """
import os, signal, sys, tempfile
from pathlib import Path
from ovavss.commands.process import user_errors
from ovavss.output.results import ResultWriter
with user_errors():
    with ResultWriter(Path(sys.argv[1]), Path("v.mp4"), ["a"], (8, 8), {}) as writer:
        assert list(Path(sys.argv[1]).parent.glob(".out.partial-*"))
        os.kill(os.getpid(), int(sys.argv[2]))
"""


def default_signals() -> None:
    """As a terminal starts a program, even where the tests run in the background or under nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def run(*command: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
        preexec_fn=default_signals,
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_is_one_line_and_leaves_nothing(tmp_path: Path, number: int, status: int) -> None:
    done = run("-c", IN_WRITER, tmp_path / "out", number)
    assert done.returncode == status, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "no unfinished file is left" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """As `nohup` has it."""
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{IN_WRITER}\nprint('went on')"
    done = run("-c", code, tmp_path / "out", signal.SIGHUP)
    assert done.returncode == 0 and "went on" in done.stdout


def test_ctrl_c_while_the_modules_are_imported() -> None:
    code = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from ovavss.cli import main
main()
"""
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (130, "interrupted: nothing was written\n")


def test_leftovers_of_processes_that_are_gone(tmp_path: Path) -> None:
    old, alive = tmp_path / f".a.json.partial-{GONE}", tmp_path / f".a.json.partial-{os.getppid()}"
    other, folder = tmp_path / f".b.json.partial-{GONE}", tmp_path / f".out.partial-{GONE}"
    for path in (old, alive, other):
        path.touch()
    (folder / "label_maps").mkdir(parents=True)
    write_json(tmp_path / "a.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.json", alive.name, other.name, folder.name])
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.json", alive.name])


@pytest.mark.parametrize("path", ["pipe", "/dev/zero"])
def test_what_cannot_be_read_twice(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="which cannot be read twice; give a file"):
        check_regular_file(tmp_path / path)
    for arguments in (
        ["segment", tmp_path / path, "--runner", "torch", "--out", tmp_path / "out"],
        ["segment", __file__, "--runner", "torch", "--weights", tmp_path / path, "--out", tmp_path / "out"],
        ["rewrite", tmp_path / path, tmp_path / "out.onnx"],
    ):
        done = run("-m", "ovavss", *arguments)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]


def test_a_terminal_that_lacks_a_letter(tmp_path: Path) -> None:
    done = run("-m", "ovavss", "segment", tmp_path / "größe.mp4", "--out", tmp_path / "o", PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and "gr\\xf6\\xdfe.mp4" in done.stderr and "Traceback" not in done.stderr
    done = run("-m", "ovavss", "größe", PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and "\\xf6" in done.stderr and "Traceback" not in done.stderr
