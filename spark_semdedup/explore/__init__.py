"""Understand the clusters: how many there are, what they are about, where a document belongs, what they look like.

Every function takes vectors (a matrix, a table, a Spark DataFrame, or the folder that a run wrote), looks at a bounded
sample of them, drawn by a seed, and gives a small result object: numbers, ``as_text()`` for a person, ``plot()`` for a
figure, and methods for the question that comes next.

==========================  ==========================================================================================
``choose_k``                how many clusters? silhouette, inertia, pairs to compare and recall for each k
``hdbscan``                 dense clusters of unknown number; the rest is noise
``agglomerative``           a dendrogram, cut by distance or by number
``mini_batch_kmeans``       k clusters from small batches
``spherical_kmeans``        k directions, by Lloyd's iteration on the sphere; how it converges
``community_detection``     every row with its neighbours above a threshold, the largest communities first
``topic_labels``            what each cluster is about: keywords, the most central documents, a name
``ClusterRetriever``        search by meaning through the clusters
``map_2d``                  a picture of all rows
``representatives``         the rows nearest to each cluster's centre
``outliers``                the rows farthest from it
==========================  ==========================================================================================

>>> import numpy as np
>>> from spark_semdedup.explore import choose_k
>>> around = np.repeat(np.eye(5), 40, axis=0) + np.random.default_rng(0).normal(0, 0.05, (200, 5))
>>> choose_k(around).k
5

The extra ``explore`` installs what they need: ``pip install 'spark-semdedup[explore]'``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spark_semdedup.explore.cluster_count import KChoice, choose_k
    from spark_semdedup.explore.clusters import Clusters
    from spark_semdedup.explore.communities import community_detection
    from spark_semdedup.explore.density import hdbscan
    from spark_semdedup.explore.draw import draw_sample
    from spark_semdedup.explore.hierarchy import Dendrogram, agglomerative
    from spark_semdedup.explore.kmeans import SphericalFit, mini_batch_kmeans, spherical_kmeans
    from spark_semdedup.explore.labelers import OpenAILabeler
    from spark_semdedup.explore.map2d import Map2D, map_2d
    from spark_semdedup.explore.members import Members, outliers, representatives
    from spark_semdedup.explore.retrieval import RetrievalReport
    from spark_semdedup.explore.retriever import ClusterRetriever, Hit
    from spark_semdedup.explore.sample import Sample
    from spark_semdedup.explore.topics import TopicLabels, topic_labels

__all__ = [
    "ClusterRetriever",
    "Clusters",
    "Dendrogram",
    "Hit",
    "KChoice",
    "Map2D",
    "Members",
    "OpenAILabeler",
    "RetrievalReport",
    "Sample",
    "SphericalFit",
    "TopicLabels",
    "agglomerative",
    "choose_k",
    "community_detection",
    "draw_sample",
    "hdbscan",
    "map_2d",
    "mini_batch_kmeans",
    "outliers",
    "representatives",
    "spherical_kmeans",
    "topic_labels",
]

_HOME = {
    "ClusterRetriever": "retriever",
    "Clusters": "clusters",
    "Dendrogram": "hierarchy",
    "Hit": "retriever",
    "KChoice": "cluster_count",
    "Map2D": "map2d",
    "Members": "members",
    "OpenAILabeler": "labelers",
    "RetrievalReport": "retrieval",
    "Sample": "sample",
    "SphericalFit": "kmeans",
    "TopicLabels": "topics",
    "agglomerative": "hierarchy",
    "choose_k": "cluster_count",
    "community_detection": "communities",
    "draw_sample": "draw",
    "hdbscan": "density",
    "map_2d": "map2d",
    "mini_batch_kmeans": "kmeans",
    "outliers": "members",
    "representatives": "members",
    "spherical_kmeans": "kmeans",
    "topic_labels": "topics",
}
"""The module of each public name, imported when the name is first used (PEP 562)."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
