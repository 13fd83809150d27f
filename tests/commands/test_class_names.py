"""Lists of class names as people write them, and names that CLIP cannot tell apart."""

from pathlib import Path

import pytest

from ovavss.commands.class_names import parse_classes
from ovavss.errors import UserError
from ovavss.models.ov_avss.clip import tokenizer
from ovavss.models.ov_avss.presets import PRESETS
from ovavss.pipeline.pipeline import check_tokens

TINY = PRESETS["tiny"]


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbfman\npiano\n", b"man\n\npiano\n\n", b'["man", "piano"]', b"man, piano\n", b"man\r\npiano\r\n"],
)
def test_lists(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    assert parse_classes(f"@{tmp_path / 'names.txt'}") == ["man", "piano"]


@pytest.mark.parametrize("other", ["Man", "man ", "grand  piano", "grand\tpiano"])
def test_names_that_clip_reads_alike(other: str) -> None:
    with pytest.raises(UserError, match=r"twice|the same to CLIP"):
        parse_classes(f"man,grand piano,{other}")


def test_names_with_the_same_beginning() -> None:
    names = ["very " * 90 + "old man", "very " * 90 + "young man"]
    with pytest.raises(UserError, match="the same to CLIP, which reads 32 tokens"):
        check_tokens(names, tokenizer(TINY.clip)(names))


def test_json_that_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('{"man": 1}')
    with pytest.raises(UserError, match="not a JSON list of names"):
        parse_classes(f"@{tmp_path / 'names.json'}")
