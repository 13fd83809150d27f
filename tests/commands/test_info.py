"""`ovavss info` and the start of the command itself, each in a process of its own."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("preset", "localization", "total"), [("r50", 48_135_810, 269_897_731), ("swin_b", 111_069_754, 611_155_131)]
)
def test_parameter_counts(preset: str, localization: int, total: int) -> None:
    done = subprocess.run([sys.executable, "-m", "ovavss", "info", preset], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"localization (USSLM): {localization} parameters" in done.stdout
    assert f"all, with VGGish and CLIP: {total} parameters" in done.stdout
    assert "frames uint8" in done.stdout and "waveform float32" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, ovavss.commands.app; "
        "print({'torch', 'numpy', 'onnxruntime', 'av', 'open_clip'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
