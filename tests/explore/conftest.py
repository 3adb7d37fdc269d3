"""Data that several tests of the explorer share."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest


@pytest.fixture(scope="session")
def debian():
    """The shipped sample, all 3,350 rows."""
    import pandas as pd

    from spark_semdedup.explore import draw_sample

    with resources.as_file(resources.files("spark_semdedup") / "data" / "debian-sample.parquet") as path:
        return draw_sample(pd.read_parquet(path))


@pytest.fixture(scope="session")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Five separated groups of 60 rows in the plane, of which no two lie in the same direction, and their numbers."""
    rng = np.random.default_rng(0)
    angle = np.arange(5) * 2 * np.pi / 5
    centres = 6 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    labels = np.repeat(np.arange(5), 60)
    return centres[labels] + rng.normal(0, 0.5, (300, 2)), labels
