"""Every command with every bad file: one sentence, exit code 2, no traceback, nothing written."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import media_files
import pytest
from typer.testing import CliRunner

from ovavss.commands.app import app

# A command's arguments; FILE is where a user may name a bad file, VIDEO a good one, OUT what must not appear.
COMMANDS = {
    "segment": "segment FILE --preset tiny --runner torch --out OUT",
    "segment, open_avs": "segment FILE --out OUT",
    "segment --weights": "segment VIDEO --preset tiny --runner torch --weights FILE --out OUT",
    "segment --clip-weights": "segment VIDEO --preset tiny --runner torch --clip-weights FILE --out OUT",
    "segment --classes": "segment VIDEO --preset tiny --runner torch --classes @FILE --out OUT",
    "segment --engines": "segment VIDEO --engines FILE --out OUT",
    "evaluate --weights": "evaluate --preset tiny --runner torch --weights FILE --num-clips 1 --json OUT",
    "evaluate --data": "evaluate --preset tiny --runner torch --data FILE --json OUT",
    "evaluate --predictions": "evaluate --data FILE --predictions FILE --json OUT",
    "evaluate --engines": "evaluate --engines FILE --num-clips 1 --json OUT",
    "export --weights": "export --preset tiny --weights FILE --out OUT",
    "export --clip-weights": "export --preset tiny --clip-weights FILE --out OUT",
    "rewrite": "rewrite FILE OUT",
    "repo": "repo --engines FILE --out OUT",
    "serve": "serve --engines FILE",
    "train --data": "train --data FILE --out OUT --iterations 1",
    "train --weights": "train --data DATA --weights FILE --out OUT --iterations 1",
}


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing of use")


# Bad whatever is asked for.
FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.touch(),
    "noise": lambda path: path.write_bytes(bytes((37 * i * i + 11) % 256 for i in range(5000))),
    "page": lambda path: path.write_text("<!doctype html><html>404: not found</html>\n"),
    "pointer": lambda path: path.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"
    ),
    "zip": _zip,
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path),
}
# A page and a pointer are lists of names like any other text.
NAMES_OF_TEXT = {("segment --classes", "page"), ("segment --classes", "pointer")}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media_files.write(tmp_path_factory.mktemp("video") / "clip.mp4", seconds=1, size=(48, 64))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("command", COMMANDS)
def test_one_sentence(command: str, file: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (command, file) in NAMES_OF_TEXT:
        pytest.skip("any text is a list of names")
    suffix = ".pth" if "weights" in command else ".onnx" if command == "rewrite" else ""
    bad, out = tmp_path / f"bad{suffix}", tmp_path / "out"
    FILES[file](bad)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "data"))
    places = {
        "FILE": str(bad),
        "@FILE": f"@{bad}",
        "VIDEO": str(video),
        "OUT": str(out),
        "DATA": str(tmp_path / "data"),
    }
    arguments = [places.get(word, word) for word in COMMANDS[command].split()]
    result = CliRunner().invoke(app, arguments)
    said = result.stderr.strip().splitlines()
    assert result.exit_code == 2, f"{result.output}\n{result.exception!r}"
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert said and (said[-1].startswith("error: ") or "Usage" in result.stderr), result.stderr
    assert len(said[-1]) < 500
    assert not out.exists() or not any(out.iterdir())
