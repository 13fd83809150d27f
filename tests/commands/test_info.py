"""`ovavss info` and the start of the command itself."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ovavss.cli import app


@pytest.mark.parametrize(
    ("preset", "localisation", "total"), [("r50", 48_135_810, 269_897_731), ("swin_b", 111_069_754, 611_155_131)]
)
def test_parameter_counts(preset: str, localisation: int, total: int) -> None:
    printed = CliRunner().invoke(app, ["info", preset]).stdout
    assert f"localisation (USSLM): {localisation} parameters" in printed
    assert f"all, with VGGish and CLIP: {total} parameters" in printed
    assert "frames uint8" in printed and "waveform float32" in printed


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, ovavss.cli; print({'torch', 'numpy', 'onnxruntime', 'av', 'open_clip'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
