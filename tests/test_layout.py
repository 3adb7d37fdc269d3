"""The package stays readable: short modules, short classes, and imports that ``make lint`` checks. And the quick tests
need nothing but the repository."""

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


OUTSIDE = {"SHARED", "CORPUS", "DEBIAN", "needs_debian", "no_potion"}
"""Names in decorators of tests that read ``../shared``."""


@pytest.mark.parametrize("module", sorted(Path(__file__).parent.rglob("test_*.py")), ids=lambda path: path.stem)
def test_what_reads_data_outside_the_repository_is_slow_and_skips_without(module):
    for test in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
            names = {node.id for each in test.decorator_list for node in ast.walk(each) if isinstance(node, ast.Name)}
            names |= {
                node.attr for each in test.decorator_list for node in ast.walk(each) if isinstance(node, ast.Attribute)
            }
            body = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)} - names
            assert not body & {"SHARED", "CORPUS", "DEBIAN"} or names & OUTSIDE, test.name
            assert not names & OUTSIDE or "slow" in names, test.name
