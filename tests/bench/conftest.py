"""The scripts of bench/ are importable here."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / "bench")]
