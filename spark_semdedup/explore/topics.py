"""What each cluster is about: keywords by class-based TF-IDF, the documents nearest the centre, and a name.

Class-based TF-IDF (Grootendorst, arXiv:2203.05794) takes the documents of a cluster for one: with tf the share of a
term among the cluster's terms, f the term's count in all clusters and A the mean number of terms of a cluster, its
weight is √tf · log(1 + A / f). Terms frequent here and rare elsewhere come first. The root is BERTopic's option for
words that every document repeats: without it, "package" and "library" would name half of Debian's clusters.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.explore import checks, figures
from spark_semdedup.explore.draw import draw_sample
from spark_semdedup.explore.labels import NOISE, checked_labels
from spark_semdedup.explore.members import similarity_to_centre
from spark_semdedup.explore.optional import require
from spark_semdedup.explore.sample import SEED, Sample
from spark_semdedup.formatting import one_line

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from spark_semdedup.explore.draw import Sampling

log = logging.getLogger("spark_semdedup")

Labeler = Callable[[list[str]], str]
"""Names a topic: gets the documents nearest to a cluster's centre, returns a short label."""

LABELED_DOCUMENTS = 5
"""Documents that a labeler gets."""

TERMS_IN_LABEL = 3

WORD = r"(?u)\b[^\W\d]\w+\b"
"""What counts as a word: two characters or more, the first a letter."""

MOST_TERMS = 50_000
"""Terms that are counted: the most frequent. More would only be rare ones, in a matrix of clusters × terms."""


@dataclass(frozen=True)
class Topic:
    """A cluster in words."""

    cluster: int
    label: str
    size: int
    """Rows of the cluster in the sample."""
    keywords: tuple[str, ...]
    weights: tuple[float, ...]
    """Class-based TF-IDF of each keyword."""
    documents: tuple[str, ...]
    """Texts nearest to the cluster's centre, the nearest first; empty ones are left out."""


class TopicLabels(dict[int, str]):
    """``{cluster: label}``, the largest cluster first, and the topics behind the labels. Noise is not among them."""

    def __init__(self, topics: list[Topic], sample: Sample) -> None:
        super().__init__({topic.cluster: topic.label for topic in topics})
        self.topics = {topic.cluster: topic for topic in topics}
        self.sample = sample

    def as_dict(self) -> dict[str, Any]:
        """All but the rows, in JSON's types."""
        return {
            str(topic.cluster): {
                "label": topic.label,
                "size": topic.size,
                "keywords": list(topic.keywords),
                "documents": list(topic.documents),
            }
            for topic in self.topics.values()
        }

    def as_text(self, *, clusters: int = 10, width: int = 72) -> str:
        """The largest topics for a person: label, keywords, the most central document."""
        lines = [f"{len(self):,} topics of {self.sample.describe()}"]
        for topic in list(self.topics.values())[:clusters]:
            lines.append(f"  {topic.cluster:>4}  {topic.size:>6,} rows  {one_line(topic.label)}")
            lines.append(f"        keywords: {one_line(', '.join(topic.keywords))}")
            if topic.documents:
                lines.append(f"        document: {one_line(topic.documents[0], width)}")
        if len(self) > clusters:
            lines.append(f"  smaller topics, not shown: {len(self) - clusters:,}")
        return "\n".join(lines)

    def plot(self, *, clusters: int = 9, keywords: int = 6, output_file: str | os.PathLike[str] | None = None) -> Any:
        """The keywords of the largest clusters as bars, one panel each; the figure."""
        topics = list(self.topics.values())[:clusters]
        if not topics:
            raise SemDedupError("there are no topics to draw: every row is noise")
        columns = min(3, len(topics))
        rows = -(-len(topics) // columns)
        made, panels = figures.figure(rows, columns, size=(3.9 * columns, 0.7 + 0.33 * keywords * rows))
        panels = np.atleast_1d(panels).ravel()
        for axes in panels[len(topics) :]:
            axes.set_axis_off()
        for axes, topic in zip(panels, topics, strict=False):
            _paint_topic(axes, topic, keywords)
        return figures.save(made, output_file)


def _paint_topic(axes: Any, topic: Topic, keywords: int) -> None:
    names = [figures.plain(one_line(word, 24)) for word in topic.keywords[:keywords]][::-1]
    axes.barh(range(len(names)), topic.weights[:keywords][::-1], color=figures.LINE, height=0.7)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    title = f"{topic.cluster}: {figures.shorten_terms(topic.label, 34)} ({topic.size:,})"
    axes.set_title(figures.plain(title), loc="left", fontsize=9, color=figures.INK)


def topic_labels(
    data: Any,
    labels: Any = None,
    *,
    labeler: Labeler | None = None,
    keywords: int = 10,
    documents: int = 10,
    stop_words: str | list[str] | None = "english",
    ngram_range: tuple[int, int] = (1, 2),
    seed: int = SEED,
    **sampling: Unpack[Sampling],
) -> TopicLabels:
    """Names each cluster; noise (−1) is skipped.

    Parameters
    ----------
    data
        With texts: a table with a text column, or a matrix with ``texts``; otherwise as in ``draw_sample``.
    labels
        The cluster of each row, or ``Clusters``; None for the folder of a run, whose own clusters are taken.
    labeler
        A function that gets the first five documents of a cluster, the nearest to its centre first, and returns a
        label, for example ``OpenAILabeler``. None: the three best keywords. A labeler that fails, or returns nothing,
        leaves the keywords, with a warning.
    keywords, documents
        How many of each to keep per cluster.
    stop_words
        ``english``, a list of words, or None: not counted as terms.
    ngram_range
        Terms of so many words, at least and at most.

    Returns
    -------
    TopicLabels
        ``{cluster: label}``.

    Raises
    ------
    SemDedupError
        Where there are no texts, all are empty, or none has a term that counts.
    """
    checks.whole_number("keywords", keywords, 1)
    checks.whole_number("documents", documents, 1)
    sample = draw_sample(data, seed=seed, **sampling)
    texts = sample.require_texts("topic_labels")
    labels = checked_labels(labels, sample)
    numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
    if not len(numbers):
        return TopicLabels([], sample)
    weights, terms = _class_tf_idf(texts, labels, numbers, stop_words, ngram_range)
    central = similarity_to_centre(sample.units, labels)
    topics: list[Topic] = []
    for place in np.lexsort((numbers, -counts)).tolist():
        cluster = int(numbers[place])
        words, scores = _best_terms(weights[place], terms, keywords)
        nearest = _central_documents(texts, labels == cluster, central, documents)
        label = _label(cluster, words, nearest, labeler, is_first=not topics)
        topics.append(Topic(cluster, label, int(counts[place]), words, scores, nearest))
    return TopicLabels(topics, sample)


def _class_tf_idf(
    texts: np.ndarray,
    labels: np.ndarray,
    numbers: np.ndarray,
    stop_words: str | list[str] | None,
    ngram_range: tuple[int, int],
) -> tuple[Any, np.ndarray]:
    """Weights, a sparse matrix (clusters, terms), and the terms."""
    text = require("sklearn.feature_extraction.text", "topic_labels")
    sparse = require("scipy.sparse", "topic_labels")

    counter = text.CountVectorizer(
        stop_words=stop_words, ngram_range=ngram_range, max_features=MOST_TERMS, token_pattern=WORD
    )
    members = np.flatnonzero(labels != NOISE)
    try:
        counts = counter.fit_transform(texts[members])
    except ValueError as error:
        if "empty vocabulary" not in str(error):  # such as stop_words or ngram_range that cannot be used
            raise SemDedupError(f"topic_labels: {error}") from None
        raise SemDedupError("topic_labels found no term to count: texts are empty, or stop words alone") from None
    rows = np.searchsorted(numbers, labels[members])
    to_cluster = sparse.csr_matrix(
        (np.ones(len(members)), (rows, np.arange(len(members)))), (len(numbers), len(members))
    )
    by_cluster = (to_cluster @ counts).tocsr().astype(np.float64)
    lengths = np.asarray(by_cluster.sum(axis=1)).ravel()
    frequency = np.asarray(by_cluster.sum(axis=0)).ravel()
    share = (sparse.diags(1 / np.maximum(lengths, 1)) @ by_cluster).tocsr().sqrt()
    rarity = np.log1p(lengths.mean() / frequency)
    return (share @ sparse.diags(rarity)).tocsr(), np.asarray(counter.get_feature_names_out(), object)


def _best_terms(weights: Any, terms: np.ndarray, wanted: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The terms of the largest weights in one row; of a term and a longer one that contains it, the better alone."""
    order = np.lexsort((weights.indices, -weights.data))  # of equal weights the first by the alphabet, as terms are
    words: list[str] = []
    scores: list[float] = []
    for place in order:
        word = terms[weights.indices[place]]
        if any(_overlap(word, other) for other in words):
            continue
        words.append(word)
        scores.append(float(weights.data[place]))
        if len(words) == wanted:
            break
    return tuple(words), tuple(scores)


def _overlap(word: str, other: str) -> bool:
    """Whether one term's words are among the other's, a plural counted as its singular.

    >>> _overlap("python", "python modules"), _overlap("sequence", "sequences"), _overlap("python", "module")
    (True, True, False)
    """
    mine, theirs = ({part.removesuffix("s") for part in term.split()} for term in (word, other))
    return mine <= theirs or theirs <= mine


def _central_documents(texts: np.ndarray, members: np.ndarray, central: np.ndarray, wanted: int) -> tuple[str, ...]:
    """The texts of ``members`` nearest to the centre, the nearest first; empty and equal ones once at most."""
    positions = np.flatnonzero(members)
    nearest = positions[np.lexsort((positions, -central[positions]))]
    chosen: dict[str, None] = {}
    for position in nearest.tolist():
        text = texts[position]
        if text.strip():
            chosen.setdefault(text)
        if len(chosen) == wanted:
            break
    return tuple(chosen)


def _label(
    cluster: int, words: tuple[str, ...], documents: tuple[str, ...], labeler: Labeler | None, *, is_first: bool
) -> str:
    """The labeler's label, or the best keywords. A server that refuses the first cluster would refuse all: that is an
    error. Later failures must not lose the labels before them."""
    fallback = ", ".join(words[:TERMS_IN_LABEL]) or f"cluster {cluster}"
    if labeler is None or not documents:
        return fallback
    try:
        label = labeler(list(documents[:LABELED_DOCUMENTS]))
    except Exception as error:  # whatever the caller's function raises
        if is_first and isinstance(error, SemDedupError):
            raise
        # What others' errors say may hold what they were working on, such as a key.
        reason = shown(error) if isinstance(error, SemDedupError) else type(error).__name__
        log.warning("labeler failed for cluster %d (%s): its keywords are its label", cluster, reason)
        return fallback
    if not isinstance(label, str) or not label.strip():
        log.warning("labeler returned %s for cluster %d: its keywords are its label", shown(label), cluster)
        return fallback
    return " ".join(label.split())
