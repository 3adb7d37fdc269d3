"""A model without weights or packages: words and pairs of words, hashed into a vector of fixed length.

Feature hashing (Weinberger et al. 2009, arXiv:0902.2206): each feature adds its weight, with a sign, at the place its
hash gives, so inner products of texts are kept on average. It sees shared words, not shared meaning: a baseline, and
the model of tests.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.text.tokens import Tokens

NAME = "hashing"
DEFAULT_DIM = 256

_WORD = re.compile(r"\w+")


def hashing_dim(model: str) -> int | None:
    """The dimension that ``hashing`` or ``hashing:DIM`` asks for; None for another model."""
    name, _, dim = model.partition(":")
    if name != NAME:
        return None
    if not dim:
        return DEFAULT_DIM
    if not dim.isascii() or not dim.isdigit() or not 1 <= int(dim[:9]) <= 65536:
        raise SemDedupError(f"model={shown(model)} cannot be used: it must be hashing:DIM, with DIM from 1 to 65536")
    return int(dim)


class HashingModel:
    """Hashed words and word pairs, each weighted by 1 + ln(count); float32 (n, dim).

    The same text gives the same vector in every process and on every machine.
    """

    kind = NAME
    on_gpu = False
    max_tokens: int | None = None

    def __init__(self, dim: int, prompt: str = "") -> None:
        self._dim, self._prompt = dim, prompt

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        words = [_WORD.findall((self._prompt + text).lower()) for text in texts]
        return [Tokens(each, len(each)) for each in words]

    def split(self, text: str) -> list[str]:
        return [text]

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        vectors = np.zeros((len(batch), self._dim), np.float32)
        for row, tokens in enumerate(batch):
            words = tokens.value
            features = Counter([*words, *map(" ".join, itertools.pairwise(words))])
            for feature, count in features.items():
                hash_ = zlib.crc32(feature.encode())  # Python's own hash differs from process to process
                sign = 1.0 if hash_ & 1 else -1.0
                vectors[row, (hash_ >> 1) % self._dim] += sign * (1.0 + math.log(count))
        return vectors
