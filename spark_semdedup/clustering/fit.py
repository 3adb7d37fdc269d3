"""Fits centroids on the sample with the chosen backend."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from spark_semdedup.clustering.faiss import fit_faiss
from spark_semdedup.clustering.minibatch import fit_minibatch
from spark_semdedup.clustering.mllib import fit_mllib
from spark_semdedup.clustering.rapids import fit_lloyd_on_executor, fit_rapids, why_lloyd
from spark_semdedup.clustering.settings import Fit, FitSettings, refuse_misfit, refuse_unsupported

if TYPE_CHECKING:
    from spark_semdedup.clustering.sample import FitSample

log = logging.getLogger("spark_semdedup")


def fit_centroids(clusterer: str, sample: FitSample, settings: FitSettings) -> Fit:
    """Fits the sample with the clusterer ``choose_clusterer`` named.

    Raises ``SemDedupError`` where a Param the user has set cannot be honoured, the sample has fewer rows than
    ``k``, or given centroids are of another length than the embeddings.
    """
    refuse_unsupported(clusterer, settings)
    refuse_misfit(settings, sample.size, sample.dim)
    if clusterer == "faiss":
        found = fit_faiss(sample.array, settings)
    elif clusterer == "minibatch":
        found = fit_minibatch(sample.array, settings)
    elif clusterer == "mllib":
        found = fit_mllib(sample.dataframe(), settings)
    elif (reason := why_lloyd(settings)) is not None:
        log.info(
            "clusterer rapids: %s, which spark-rapids-ml does not offer → Lloyd loop on one GPU, which takes the whole "
            "sample, %.3g GiB",
            reason,
            4 * sample.size * sample.dim / 2**30,
        )
        found = fit_lloyd_on_executor(sample.dataframe(), settings, backend="gpu")
    else:
        # The order of all rows would take a shuffle of the whole table, and decides nothing that cuML keeps.
        found = fit_rapids(sample.dataframe(in_order=sample.is_held), settings, sample.size, sample.dim)
    return found
