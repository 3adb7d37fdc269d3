"""A Hugging Face tokenizer, as models here use it: limited to what the model reads, and telling what it cuts."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from spark_semdedup.text.tokens import Tokens
from spark_semdedup.text.words import WordTokens, goes_by_words


class TextTokenizer:
    """Wraps a ``tokenizers.Tokenizer``, which it changes: hand it one of its own.

    ``max_tokens`` includes special tokens (``[CLS]``, ``[SEP]``); None: no limit.
    """

    def __init__(self, tokenizer: Any, max_tokens: int | None, *, special_tokens: bool = True) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        by_words = not special_tokens and goes_by_words(tokenizer)
        self._words = WordTokens(copy.deepcopy(tokenizer)) if by_words else None
        if max_tokens is not None:
            tokenizer.enable_truncation(max_tokens)
        self._tokenizer, self._special_tokens = tokenizer, special_tokens
        self.max_tokens = max_tokens

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text as int64 (t,), cut to ``max_tokens``."""
        if self._words is not None:
            return [self._cut(ids) for ids in self._words(texts)]
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=self._special_tokens)
        return [_tokens(encoding) for encoding in encodings]

    def _cut(self, ids: list[int]) -> Tokens:
        read = np.array(ids[: self.max_tokens], np.int64)
        return Tokens(read, len(read), len(read) < len(ids))

    def split(self, text: str) -> list[str]:
        """Consecutive chunks of ``max_tokens`` tokens; joined they are the text."""
        (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=self._special_tokens)
        ends = [_last_character(window) for window in (encoding, *encoding.overflowing)]
        ends = [0, *ends[:-1], len(text)]
        return [text[start:end] for start, end in itertools.pairwise(ends) if end > start]


def _tokens(encoding: Any) -> Tokens:
    ids = np.array(encoding.ids, np.int64)
    return Tokens(ids, len(ids), bool(encoding.overflowing))


def _last_character(window: Any) -> int:
    """Where in its text a window of tokens ends; special tokens are at (0, 0)."""
    return max((end for _, end in window.offsets), default=0)
