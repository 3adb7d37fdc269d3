"""The package stays readable: short modules, short classes, and imports that ``make lint`` checks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "spark_semdedup"
MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_classes_are_short(module):
    source = module.read_text("utf-8")
    assert len(source.splitlines()) <= 400
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    assert {node.name: node.end_lineno - node.lineno for node in classes if node.end_lineno - node.lineno >= 200} == {}


def test_every_package_says_what_it_is_for():
    for init in PACKAGE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(init.read_text("utf-8"))), init
