"""Centroids that a Spark Connect client could not send are refused before the plan is made."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from spark_semdedup.clustering.assign import _refuse_long_message
from spark_semdedup.clustering.centroids import Centroids
from spark_semdedup.errors import SemDedupError

CLIENT, CLASSIC = SimpleNamespace(), SimpleNamespace(_jsparkSession=object())


def centroids(k: int, dim: int) -> Centroids:
    return Centroids(np.broadcast_to(np.float32(1), (k, dim)), False, ())


def test_centroids_of_more_than_a_message_name_the_largest_k():
    with pytest.raises(SemDedupError, match=r"50,000 centroids of length 768 are 146 MiB.*lower k to at most 40,960"):
        _refuse_long_message(CLIENT, centroids(50_000, 768))


def test_what_fits_and_classic_sessions_pass():
    _refuse_long_message(CLIENT, centroids(40_000, 768))
    _refuse_long_message(CLASSIC, centroids(50_000, 768))
