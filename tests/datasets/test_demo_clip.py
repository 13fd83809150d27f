"""The demonstration's clip: checked by hash, and a clear message where it cannot be fetched."""

import os
from pathlib import Path

import pytest

from ovavss.datasets import demo_clip
from ovavss.errors import UserError
from ovavss.media.video import probe


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_clip, "PACKAGE", "ovavss-no-such-package==0")
    monkeypatch.setenv("UV_OFFLINE", "1")
    with pytest.raises(UserError, match=r"could not be fetched .*make demo VIDEO=FILE"):
        demo_clip.fetch_demo_clip(tmp_path)
    assert not list(tmp_path.iterdir())


def test_wrong_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(folder: Path) -> None:
        (folder / demo_clip.MEMBER).parent.mkdir(parents=True)
        (folder / demo_clip.MEMBER).write_bytes(b"something else")

    monkeypatch.setattr(demo_clip, "_install", install)
    with pytest.raises(UserError, match=r"does not hold the expected"):
        demo_clip.fetch_demo_clip(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_real_clip() -> None:
    clip = demo_clip.cache_folder() / Path(demo_clip.MEMBER).name
    if not clip.exists() and not os.environ.get("CI"):
        pytest.skip("the demonstration clip is not fetched yet; run make demo, or set CI=1 to fetch it here")
    info = probe(demo_clip.fetch_demo_clip())
    assert (info.width, info.height, info.seconds, info.channels) == (640, 480, 6, 2)
