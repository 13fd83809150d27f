"""What the documentation says of the tests is so."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_check_names_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/\S+?)::(\w+)`", (ROOT / "docs" / "checks.md").read_text())
    assert len(named) > 40
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, f"docs/checks.md names {path}::{name}"
