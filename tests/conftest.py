"""Shared by all tests: helper modules of this folder are importable, and threads stay at what the machine has."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
