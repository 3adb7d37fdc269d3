"""A Hugging Face tokenizer, as models here use it: limited to what the model reads, and telling what it cuts."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.text.tokens import Tokens
from spark_semdedup.text.words import WordTokens, goes_by_words


class TextTokenizer:
    """Wraps a ``tokenizers.Tokenizer``, which it changes: hand it one of its own.

    ``max_tokens`` includes special tokens (``[CLS]``, ``[SEP]``) and the prompt, which is put before each text; None:
    no limit. Raises ``SemDedupError`` where it leaves no token for a text.
    """

    def __init__(
        self, tokenizer: Any, max_tokens: int | None, *, special_tokens: bool = True, prompt: str = ""
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        by_words = not special_tokens and goes_by_words(tokenizer)
        self._words = WordTokens(copy.deepcopy(tokenizer)) if by_words else None
        self._splitter = copy.deepcopy(tokenizer) if prompt else tokenizer
        if max_tokens is not None:
            tokens = len(tokenizer.encode(prompt, add_special_tokens=False).ids)
            _require_room(
                max_tokens, tokenizer.num_special_tokens_to_add(False) if special_tokens else 0, prompt, tokens
            )
            tokenizer.enable_truncation(max_tokens)
            self._splitter.enable_truncation(max_tokens - tokens)
        self._tokenizer, self._special_tokens = tokenizer, special_tokens
        self.max_tokens, self.prompt = max_tokens, prompt

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of the prompt and each text as int64 (t,), cut to ``max_tokens``."""
        texts = [self.prompt + text for text in texts]
        if self._words is not None:
            return [self._cut(ids) for ids in self._words(texts)]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=self._special_tokens)
        return [_tokens(encoding) for encoding in encodings]

    def _cut(self, ids: list[int]) -> Tokens:
        read = np.array(ids[: self.max_tokens], np.int64)
        return Tokens(read, len(read), len(read) < len(ids))

    def split(self, text: str) -> list[str]:
        """Consecutive chunks of at most ``max_tokens`` tokens with the prompt; joined they are the text."""
        (encoding,) = self._splitter.encode_batch([text], add_special_tokens=self._special_tokens)
        ends = [_last_character(window) for window in (encoding, *encoding.overflowing)]
        ends = [0, *ends[:-1], len(text)]
        chunks = [text[start:end] for start, end in itertools.pairwise(ends) if end > start]
        # A chunk that begins inside a word may have more tokens by itself than within the text.
        fits = [
            not tokens.truncated or len(chunk) == 1 for chunk, tokens in zip(chunks, self.tokenize(chunks), strict=True)
        ]
        return [
            part for chunk, fit in zip(chunks, fits, strict=True) for part in ([chunk] if fit else self._halved(chunk))
        ]

    def _halved(self, chunk: str) -> list[str]:
        middle = len(chunk) // 2
        return self.split(chunk[:middle]) + self.split(chunk[middle:])


def _require_room(max_tokens: int, special: int, prompt: str, of_prompt: int) -> None:
    if max_tokens - special - of_prompt < 1:
        of = f", and prompt={shown(prompt)} has {of_prompt}" if prompt else ""
        raise SemDedupError(
            f"maxTokens={max_tokens} leaves no token for a text: the model adds {special} special tokens{of}; raise "
            f"maxTokens{', or give a shorter prompt' if prompt else ''}"
        )


def _tokens(encoding: Any) -> Tokens:
    ids = np.array(encoding.ids, np.int64)
    return Tokens(ids, len(ids), bool(encoding.overflowing))


def _last_character(window: Any) -> int:
    """Where in its text a window of tokens ends; special tokens are at (0, 0)."""
    return max((end for _, end in window.offsets), default=0)
