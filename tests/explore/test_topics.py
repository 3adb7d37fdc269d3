"""Names of clusters: keywords, central documents, labelers."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore import mini_batch_kmeans, topic_labels

TEXTS = [
    "apple pear apple fruit",
    "pear fruit juice",
    "apple fruit",
    "engine wheel engine",
    "wheel brake engine",
    "nothing of all that",
]
VECTORS = np.array([[1, 0.1], [1, 0.2], [1, 0.05], [0, 1], [0.1, 1], [1, -1]])
LABELS = [0, 0, 0, 1, 1, -1]


def test_weights_are_those_of_the_formula():
    topics = topic_labels(VECTORS, LABELS, texts=TEXTS, ngram_range=(1, 1)).topics
    counts = [{"apple": 3, "pear": 2, "fruit": 3, "juice": 1}, {"engine": 3, "wheel": 2, "brake": 1}]
    mean = (9 + 6) / 2
    for cluster, words in enumerate(counts):
        total = sum(words.values())
        expected = {w: math.sqrt(n / total) * math.log(1 + mean / n) for w, n in words.items()}
        found = dict(zip(topics[cluster].keywords, topics[cluster].weights, strict=True))
        assert found == pytest.approx(expected)
        assert list(topics[cluster].weights) == sorted(topics[cluster].weights, reverse=True)


def test_a_long_word_takes_no_more_memory_than_it_is_long():
    texts = [" ".join(f"word{i}x{j}" for j in range(20)) for i in range(20)]
    texts[0] += " " + "a" * 20_000
    tracemalloc.start()
    found = topic_labels(np.eye(20), [0] * 20, texts=texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6, "every term at its length would be 64 MB"
    assert found.topics[0].keywords[:2] == ("a" * 20_000, "word0x0")  # of equal weights by the alphabet


def test_labels_are_a_dict_without_noise():
    found = topic_labels(VECTORS, LABELS, texts=TEXTS, ngram_range=(1, 1))
    assert list(found) == [0, 1]
    assert found == {0: "pear, apple, fruit", 1: "wheel, engine, brake"}
    assert found.topics[0].size == 3
    assert set(found.as_dict()) == {"0", "1"}


def test_documents_are_the_nearest_to_the_centre():
    found = topic_labels(VECTORS, LABELS, texts=TEXTS, documents=2)
    assert found.topics[0].documents == ("apple pear apple fruit", "apple fruit")
    assert "apple pear apple fruit" in found.as_text()
    assert "not shown" not in found.as_text(clusters=2)
    assert found.as_text(clusters=1).endswith("\n  smaller topics, not shown: 1")


def test_a_labeler_gets_the_first_five_documents():
    seen: list[list[str]] = []

    def labeler(documents: list[str]) -> str:
        seen.append(documents)
        return f" topic\n{len(seen)} "

    texts = [f"word{i} number" for i in range(12)]
    vectors = np.array([[1, i / 100] for i in range(12)])
    found = topic_labels(vectors, [0] * 8 + [1] * 3 + [-1], texts=texts, labeler=labeler)
    assert found == {0: "topic 1", 1: "topic 2"}
    assert [len(documents) for documents in seen] == [5, 3]
    middle = vectors[:8] / np.linalg.norm(vectors[:8], axis=1, keepdims=True)
    nearest = np.argsort(-(middle @ middle.mean(axis=0)), kind="stable")[:5]
    assert seen[0] == [texts[i] for i in nearest]


@pytest.mark.parametrize("answer", ["", "  ", None, 3])
def test_a_labeler_s_useless_answer_leaves_the_keywords(answer, caplog):
    found = topic_labels(VECTORS, LABELS, texts=TEXTS, labeler=lambda _: answer, ngram_range=(1, 1))
    assert found[1] == "wheel, engine, brake"
    assert "its keywords are its label" in caplog.text


def test_a_labeler_s_failure_leaves_the_keywords(caplog):
    def labeler(documents: list[str]) -> str:
        raise RuntimeError("out of order, key 8f3a")

    found = topic_labels(VECTORS, LABELS, texts=TEXTS, labeler=labeler, ngram_range=(1, 1))
    assert found[0] == "pear, apple, fruit"
    assert "labeler failed for cluster 0 (RuntimeError)" in caplog.text
    assert "8f3a" not in caplog.text  # an error of others may repeat a secret


def test_a_server_that_refuses_the_first_cluster_is_an_error_later_ones_keep_what_there_is():
    calls = []

    def fails_from(first: int):
        def labeler(documents: list[str]) -> str:
            calls.append(documents)
            if len(calls) >= first:
                raise SemDedupError("no key")
            return "Fruit And Juice"

        return labeler

    with pytest.raises(SemDedupError, match="no key"):
        topic_labels(VECTORS, LABELS, texts=TEXTS, labeler=fails_from(1))
    calls.clear()
    found = topic_labels(VECTORS, LABELS, texts=TEXTS, labeler=fails_from(2), ngram_range=(1, 1))
    assert found == {0: "Fruit And Juice", 1: "wheel, engine, brake"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "topic_labels needs texts: give texts="),
        ({"texts": [""] * 5 + [" "]}, "but all 6 of the sample are empty"),
        ({"texts": ["the of"] * 6}, "found no term to count"),
        ({"texts": TEXTS, "stop_words": "klingon"}, "topic_labels: .*stop"),
        ({"texts": TEXTS, "keywords": 0}, "keywords=0"),
        ({"texts": TEXTS, "ngram_range": (2, 1)}, "topic_labels: "),
    ],
)
def test_bad_input_is_refused_in_one_line(options, message):
    with pytest.raises(SemDedupError, match=message) as error:
        topic_labels(VECTORS, LABELS, **options)
    assert "\n" not in str(error.value)


def test_noise_alone_has_no_topics():
    found = topic_labels(VECTORS, [-1] * 6, texts=TEXTS)
    assert found == {}
    with pytest.raises(SemDedupError, match="no topics to draw"):
        found.plot()


def test_texts_that_are_markup_or_formulas_are_drawn_as_they_are(tmp_path):
    texts = ["$x_1$ costs$", "$\\frac{ <b> &", "a\x00b ctrl\x07", "日本語 テキスト", "word " * 500, "ordinary"]
    topic_labels(VECTORS, [0, 0, 1, 1, 2, 2], texts=texts).plot(output_file=tmp_path / "t.png")


def test_topics_of_the_shipped_sample_read_sensibly(debian):
    """Clusters of a known kind are named for it: of each, its most frequent package prefix stands in the label."""
    found = mini_batch_kmeans(debian, k=20).topics()
    assert len(found) == 20
    labels = " | ".join(found.values())
    for word in ("python", "perl", "haskell", "rust", "audio", "ruby", "spell", "server"):
        assert word in labels, word
    vague = {"package", "library", "contains", "provides", "files"}
    assert sum(label.split(",")[0] in vague for label in found.values()) <= 2


def test_the_plot_has_a_panel_for_each_topic(tmp_path):
    figure = topic_labels(VECTORS, LABELS, texts=TEXTS, ngram_range=(1, 1)).plot(output_file=tmp_path / "topics.png")
    first = figure.axes[0]
    assert first.get_title(loc="left").startswith("0: pear, apple, fruit")
    assert [label.get_text() for label in first.get_yticklabels()] == ["juice", "fruit", "apple", "pear"]
