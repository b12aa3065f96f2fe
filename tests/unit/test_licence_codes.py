"""The codes that an operator sees: in the head of `licensing.stage`, in docs/licensing.md, and given by the program."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

from licensing import stage

ROOT = Path(stage.__file__).parents[1]
_CODE = re.compile(r"LIC-4\d\d")


def given() -> set[str]:
    """Codes in the program's texts, docstrings and comments aside."""
    found: set[str] = set()
    for path in (each for part in ("licensing", "agent", "tui") for each in (ROOT / part).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        told = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
        for each in ast.walk(tree):
            if isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in told:
                found.update(_CODE.findall(each.value))
    return found


def test_each_code_is_said_once_in_the_head_of_the_module_and_is_given() -> None:
    head = Counter(_CODE.findall(stage.__doc__ or ""))
    assert set(head) == given()
    assert set(head.values()) == {1}


def test_each_code_has_its_line_in_the_documentation() -> None:
    text = (ROOT / "docs" / "licensing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (LIC-4\d\d) \|", text, re.MULTILINE)
    assert rows == sorted(given())
