"""Static models in Model2Vec's format: one vector per token, whose mean is the text's embedding. Fast on CPUs.

(Tulkens and van Dongen 2024, https://github.com/MinishLab/model2vec.)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.text.folder import STATIC_EXTRA, missing_package
from spark_semdedup.text.tokenizer import TextTokenizer
from spark_semdedup.text.tokens import Tokens


class StaticModel:
    """Vectors of tokens, averaged. Gives what Model2Vec's ``encode`` gives, texts cut at as many tokens.

    ``vectors``: float32 (v, d), by token id: what Model2Vec stores in one to three pieces, put together once.
    ``chars_per_token``: of a text longer than ``max_tokens`` times this, only so many characters are tokenized, as
    Model2Vec does; the prompt counts. Raises ``SemDedupError`` where it leaves no character for a text.
    """

    kind = "model2vec"
    on_gpu = False

    def __init__(
        self,
        vectors: np.ndarray,
        tokenizer: TextTokenizer,
        unknown_id: int | None = None,
        chars_per_token: int = 6,
    ) -> None:
        self._vectors, self._tokenizer, self._unknown_id = vectors, tokenizer, unknown_id
        self._most_chars: int | None = None
        if tokenizer.max_tokens is not None:
            self._most_chars = tokenizer.max_tokens * chars_per_token - len(tokenizer.prompt)
            if self._most_chars < 1:
                raise SemDedupError(
                    f"prompt={shown(tokenizer.prompt)} has {len(tokenizer.prompt)} characters, and the model reads "
                    f"{tokenizer.max_tokens * chars_per_token} with maxTokens={tokenizer.max_tokens}: give a shorter "
                    "prompt, or raise maxTokens"
                )

    @property
    def max_tokens(self) -> int | None:
        return self._tokenizer.max_tokens

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        most = self._most_chars
        if most is None:
            return list(map(self._without_unknown, self._tokenizer.tokenize(texts)))
        tokens = self._tokenizer.tokenize([text[:most] for text in texts])
        cut = (len(text) > most for text in texts)
        return [self._without_unknown(each, also_cut) for each, also_cut in zip(tokens, cut, strict=True)]

    def _without_unknown(self, tokens: Tokens, also_cut: bool = False) -> Tokens:
        ids = tokens.value if self._unknown_id is None else tokens.value[tokens.value != self._unknown_id]
        return Tokens(ids, len(ids), tokens.truncated or also_cut)

    def split(self, text: str) -> list[str]:
        """Chunks that neither the tokens nor the characters of ``tokenize`` cut."""
        most = self._most_chars
        if most is None:
            return [text]
        return [
            chunk[start : start + most] for chunk in self._tokenizer.split(text) for start in range(0, len(chunk), most)
        ]

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        """Zero for a text of no token that the model knows."""
        means = np.zeros((len(batch), self._vectors.shape[1]), np.float32)
        # Texts of one length make one matrix; batches come sorted by length.
        for length, group in groupby(range(len(batch)), key=lambda row: batch[row].count):
            if length:
                rows = list(group)
                means[rows] = self._vectors[np.stack([batch[row].value for row in rows])].mean(axis=1)
        return means


def load_static(path: str, max_tokens: int | None, prompt: str) -> StaticModel:
    """Raises ``SemDedupError`` where the package ``model2vec`` is missing."""
    try:
        import model2vec
    except ImportError as error:
        raise missing_package(path, "model2vec", STATIC_EXTRA, error) from None
    model = model2vec.StaticModel.from_pretrained(path)
    limit = max_tokens or model.max_length
    tokenizer = TextTokenizer(copy.deepcopy(model.tokenizer), limit, special_tokens=False, prompt=prompt)
    return StaticModel(_token_vectors(model), tokenizer, model.unk_token_id, model.median_token_length)


def _token_vectors(model: Any) -> np.ndarray:
    """Float32 (v, d): the vector of each token, from a matrix and, where its vocabulary is quantised, the row and the
    weight of each token."""
    vectors = np.asarray(model.embedding, np.float32)
    if model.token_mapping is not None:
        vectors = vectors[model.token_mapping]
    return vectors if model.weights is None else vectors * np.asarray(model.weights, np.float32)[:, None]
