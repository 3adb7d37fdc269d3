"""Gives the package's doctests the suite's fixtures: those of tests/conftest.py alone reach no further than tests/."""

from tests.conftest import _doctest_names, spark  # noqa: F401  (fixtures are found by being here)
