"""Labels: one number for each row, −1 for noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore.sample import Sample

NOISE = -1
"""The label of rows in no cluster."""


def cluster_means(units: np.ndarray, labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The mean of each cluster's rows, added in float64: float32 (len(numbers), d)."""
    if not len(numbers):
        return np.zeros((0, units.shape[1]), np.float32)
    members = np.flatnonzero(labels >= 0)
    order = members[np.argsort(labels[members], kind="stable")]
    place = np.searchsorted(numbers, labels[order])
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    means = np.empty((len(numbers), units.shape[1]), np.float32)
    for number, rows in enumerate(np.split(order, starts[1:])):
        means[number] = units[rows].mean(axis=0, dtype=np.float64)
    return means


def checked_labels(labels: Any, sample: Sample) -> np.ndarray:
    """Labels of the sample's rows as int64 (n,); those of its run where ``labels`` is None."""
    if labels is None:
        if sample.labels is None:
            raise SemDedupError("labels is not set: give the cluster of each row, or the folder of a run")
        return sample.labels
    labels = getattr(labels, "labels", labels)
    try:
        array = np.asarray(labels)
        whole = array.astype(np.int64)
        fits = array.dtype.kind in "iuf" and bool((whole == array).all())
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits or array.ndim != 1:
        raise SemDedupError("labels cannot be used: they must be whole numbers, one for each row, with -1 for noise")
    if len(whole) != len(sample):
        raise SemDedupError(
            f"labels has {len(whole)} values, but the sample has {len(sample)} rows: one for each is needed "
            "(draw_sample draws it once for several functions)"
        )
    return np.where(whole < 0, NOISE, whole)


def by_size(labels: np.ndarray) -> np.ndarray:
    """The same clusters numbered from 0 by falling size, of equal ones by their first row; noise stays −1."""
    numbers, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    order = order[numbers[order] >= 0]
    renamed = np.full(len(numbers), NOISE, np.int64)
    renamed[order] = np.arange(len(order))
    return renamed[np.searchsorted(numbers, labels)]
