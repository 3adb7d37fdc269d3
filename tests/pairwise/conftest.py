"""The corpus that coverages are tried on."""

from __future__ import annotations

import pytest
from pairwise.corpora import Corpus


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()
