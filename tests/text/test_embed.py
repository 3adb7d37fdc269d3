from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_semdedup.errors import SemDedupError
from spark_semdedup.text import embed as module
from spark_semdedup.text.embed import (
    BatchEmbedder,
    EmbeddingCounts,
    EmbedSettings,
    embed_tokens,
    embed_within_memory,
    is_printable,
    unit_rows,
)
from spark_semdedup.text.hashing import HashingModel
from spark_semdedup.text.models import EncoderModel
from spark_semdedup.text.tokens import Tokens


class Words:
    """A model that reads ``max_tokens`` words, whose vector counts letters, and notes what it embeds."""

    kind, on_gpu = "words", False

    def __init__(self, max_tokens: int | None = 3) -> None:
        self.max_tokens = max_tokens
        self.batches: list[list[str]] = []

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        words = [text.split() for text in texts]
        return [
            Tokens(" ".join(each[: self.max_tokens]), min(len(each), self.max_tokens or 10**9), self._cuts(each))
            for each in words
        ]

    def _cuts(self, words: list[str]) -> bool:
        return self.max_tokens is not None and len(words) > self.max_tokens

    def split(self, text: str) -> list[str]:
        words = text.split()
        return [" ".join(words[i : i + self.max_tokens]) for i in range(0, len(words), self.max_tokens)]

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        self.batches.append([tokens.value for tokens in batch])
        return np.array([vector(tokens.value) for tokens in batch], np.float32)


def vector(text: str) -> list[float]:
    return [text.count(letter) for letter in "abcdefgh"]


def unit(text: str) -> np.ndarray:
    return np.array(vector(text)) / np.linalg.norm(vector(text))


def utf8(*texts: str | None) -> list[bytes | None]:
    return [None if text is None else text.encode("utf-8", "surrogatepass") for text in texts]


# --- which texts are embedded -------------------------------------------------------------------------------


def test_equal_texts_are_embedded_once_in_a_batch_and_in_later_ones():
    model = Words()
    embedder = BatchEmbedder(model, EmbedSettings())
    first, counts = embedder(utf8("a b", "c", "a b", None, "c"))
    second, later = embedder(utf8("c", "d", "a b"))
    assert sorted(text for batch in model.batches for text in batch) == ["a b", "c", "d"]
    assert (counts.embedded, later.embedded) == (2, 1)
    np.testing.assert_allclose(first[0], unit("a b"), rtol=1e-6)
    for again, before in ((first[2], first[0]), (first[4], first[1]), (second[0], first[1]), (second[2], first[0])):
        np.testing.assert_array_equal(again, before)


def test_a_task_keeps_no_more_embeddings_than_fit(monkeypatch):
    monkeypatch.setattr(module, "_CACHE_BYTES", 500)
    model = Words()
    embedder = BatchEmbedder(model, EmbedSettings())
    texts = [f"a{i}" for i in range(10)]
    embedder(utf8(*texts))
    _, counts = embedder(utf8(*texts))
    assert counts.embedded == 8, "two of 232 bytes fit into 500"


@pytest.mark.parametrize("text", ["", " \t\n", "\u3000\u00a0", "\x00\x01\x1b", "\u200b\ufeff", "\r\n\x7f \u2028"])
def test_a_text_without_a_printable_character_gets_no_embedding(text):
    assert not is_printable(text)
    vectors, counts = BatchEmbedder(Words(), EmbedSettings())(utf8(text, "a", None))
    assert vectors[0] is None
    assert vectors[1] is not None
    assert vectors[2] is None
    assert counts == EmbeddingCounts(rows=3, null=1, blank=1, embedded=1)


def test_a_batch_of_nothing_else_is_answered_too():
    vectors, counts = BatchEmbedder(Words(), EmbedSettings())(utf8(None, " "))
    assert vectors == [None, None]
    assert counts == EmbeddingCounts(rows=2, null=1, blank=1)
    assert BatchEmbedder(Words(), EmbedSettings())([])[0] == []


def test_bytes_that_are_no_utf8_are_replaced():
    model = Words()
    BatchEmbedder(model, EmbedSettings())([b"a\xff\xfeb", "\ud800 c".encode("utf-8", "surrogatepass")])
    assert sorted(text for batch in model.batches for text in batch) == ["a\ufffd\ufffdb", "\ufffd\ufffd\ufffd c"]


@given(st.lists(st.text("ab \x00é", max_size=6), max_size=12), st.integers(1, 12), st.integers(1, 20))
def test_batches_of_any_size_and_order_give_each_text_its_own_vector(texts, step, batch_tokens):
    embedder = BatchEmbedder(HashingModel(16), EmbedSettings(batch_tokens=batch_tokens))
    vectors = [vector for i in range(0, len(texts), step) for vector in embedder(utf8(*texts[i : i + step]))[0]]
    alone = [BatchEmbedder(HashingModel(16), EmbedSettings())(utf8(text))[0][0] for text in texts]
    for one, other in zip(vectors, alone, strict=True):
        np.testing.assert_array_equal(one, other)


# --- what an embedding is -----------------------------------------------------------------------------------


def test_vectors_are_of_unit_length_unless_that_is_switched_off():
    (unit_, raw) = (
        BatchEmbedder(Words(), EmbedSettings(normalize=normalize))(utf8("a a b"))[0][0] for normalize in (True, False)
    )
    np.testing.assert_allclose(unit_, np.array([2, 1, 0, 0, 0, 0, 0, 0]) / np.sqrt(5), rtol=1e-6)
    np.testing.assert_array_equal(raw, [2, 1, 0, 0, 0, 0, 0, 0])


def test_a_vector_that_has_no_length_stays_as_it_is():
    rows = np.array([[0, 0], [np.nan, 1], [np.inf, 1], [3e38, 3e38], [1e-45, 0]], np.float32)
    expected = [[0, 0], [np.nan, 1], [np.inf, 1], [0.5**0.5, 0.5**0.5], [1, 0]]
    np.testing.assert_allclose(unit_rows(rows), np.array(expected, np.float32), rtol=1e-6)


def test_truncated_texts_are_counted_equal_ones_each():
    _, counts = BatchEmbedder(Words(3), EmbedSettings())(utf8("a b c", "a b c d", "a b c d", None))
    assert (counts.truncated, counts.rows) == (2, 4)
    assert counts.truncated_share() == 2 / 3


def test_a_text_of_max_chars_counts_as_truncated():
    _, counts = BatchEmbedder(Words(None), EmbedSettings(max_chars=4))(utf8("a bc", "a b"))
    assert counts.truncated == 1


def test_chunks_count_by_their_tokens():
    model = Words(3)
    texts = ["a b c d e f g a", "h", "a a a h h h b b b"]
    vectors, counts = BatchEmbedder(model, EmbedSettings(chunk="tokens"))(utf8(*texts))
    means = [3 * unit("abc") + 3 * unit("def") + 2 * unit("ga"), unit("h"), unit("a") + unit("h") + unit("b")]
    for found, mean in zip(vectors, means, strict=True):
        np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)
    assert (counts.truncated, counts.chunked) == (0, 2)


def test_without_chunks_texts_that_differ_later_are_equal_and_with_them_not():
    texts = utf8("a b c d", "a b c h")
    none, tokens = (BatchEmbedder(Words(3), EmbedSettings(chunk=chunk))(texts)[0] for chunk in ("none", "tokens"))
    np.testing.assert_array_equal(none[0], none[1])
    assert tokens[0] @ tokens[1] < 0.95


def test_mean_of_chunks_without_normalisation_is_of_their_units():
    (found, single), _ = BatchEmbedder(Words(3), EmbedSettings(chunk="tokens", normalize=False))(
        utf8("a a a h h h", "a a")
    )
    np.testing.assert_allclose(found, (unit("a") + unit("h")) / 2, atol=1e-6)
    np.testing.assert_array_equal(single, vector("a a"))


# --- memory and faults --------------------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """Named as PyTorch's."""


def tokens(*counts: int) -> list[Tokens]:
    return [Tokens(count, count) for count in counts]


def test_where_memory_does_not_suffice_batches_are_halved():
    sizes = []

    def embed(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise OutOfMemoryError("CUDA out of memory")
        return np.array([[each.value] for each in batch], np.float32)

    np.testing.assert_array_equal(embed_within_memory(embed, tokens(*range(7))).ravel(), range(7))
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_one_text_that_does_not_fit_is_refused():
    def embed(batch):
        raise OutOfMemoryError("CUDA out of memory")

    with pytest.raises(SemDedupError, match=r"a text of 9 tokens does not fit .* lower maxTokens"):
        embed_within_memory(embed, tokens(9, 9))


def test_other_faults_are_not_tried_again():
    calls = []

    def embed(batch):
        calls.append(len(batch))
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        embed_within_memory(embed, tokens(1, 2))
    assert calls == [2]


def test_vectors_of_several_lengths_are_refused():
    class Uneven(Words):
        def embed(self, batch):
            return np.ones((len(batch), len(batch)), np.float32)

    with pytest.raises(SemDedupError, match="returned vectors of lengths 1 and 2: all must have one"):
        embed_tokens(Uneven(), tokens(5, 2, 2), 5)


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (lambda texts: np.ones(len(texts)), r"returned an array of shape \(2,\) for 2 texts: it must be \(2, dim"),
        (lambda texts: np.ones((1, 3)), r"returned an array of shape \(1, 3\) for 2 texts"),
        (lambda texts: np.ones((2, 0)), r"returned an array of shape \(2, 0\)"),
        (lambda texts: [["x"], ["y"]], "returned a list for 2 texts .*it must return an array of shape"),
        (lambda texts: None, r"returned an array of shape \(\) for 2 texts"),
        (lambda texts: texts[9], r"encoder '<lambda>' failed on 2 texts: 'IndexError: list index out of range'"),
    ],
)
def test_an_encoder_that_fails_or_answers_otherwise_is_refused(encoder, said):
    model = EncoderModel(encoder)
    with pytest.raises(SemDedupError, match=said):
        model.embed(model.tokenize(["a", "b"]))


def test_an_encoder_gets_lists_of_texts_with_the_prompt():
    got = []
    model = EncoderModel(lambda texts: got.append(texts) or np.ones((len(texts), 2)), "q: ")
    assert model.embed(model.tokenize(["a", "b"])).dtype == np.float32
    assert got == [["q: a", "q: b"]]
