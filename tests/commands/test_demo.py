"""What `make demo` runs: it must follow every change of `ovavss segment`."""

import json
from pathlib import Path

import pytest

from ovavss.commands.demo import demo


def test_the_rendered_clip_of_the_tiny_preset(tiny_engines: Path, tmp_path: Path) -> None:
    demo(out=tmp_path / "shapes", engines=tiny_engines)
    frames = json.loads((tmp_path / "shapes" / "result.json").read_text())["frames"]
    assert "magenta star" in {found["name"] for found in frames[0]["objects"]}
    assert (tmp_path / "shapes" / "overlay.mp4").stat().st_size


def test_a_missing_video_of_the_users_own(tiny_engines: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        demo(out=tmp_path / "own", engines=tiny_engines, video=tmp_path / "missing.mp4")
    assert ended.value.code == 2
    assert not (tmp_path / "own").exists()
