"""The corpus that coverages are tried on, and its table."""

from __future__ import annotations

import pytest
from pairwise.corpora import Corpus


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


@pytest.fixture(scope="module")
def frame(spark, corpus):
    df = corpus.frame(spark).repartition(3).persist()
    yield df
    df.unpersist()
