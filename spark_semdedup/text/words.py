"""Token ids of texts by looking up their words: a corpus repeats few words, and tokenizing takes most of a static
model's time (2.8 times as fast on 63,905 package descriptions).

A tokenizer goes through the characters of every text. BERT's normalizer changes one character at a time, and its
pre-tokenizer cuts at spaces and around punctuation. So no token depends on what lies beyond a space or an ASCII
punctuation character: the tokens of a text are those of its words, one after the other.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

_MOST_WORDS = 1 << 17
"""Words that are kept between two calls: about 30 MB."""

_LONGEST_WORD = 64
"""Characters of a word that is kept: a longer one, or a whole text, hardly comes again."""

_TEXTS_AT_ONCE = 256
"""Texts whose words are held at once."""

_PUNCTUATION = re.escape(string.punctuation)
_words_of = re.compile(f"[^ \n{_PUNCTUATION}]+|[{_PUNCTUATION}]+").findall


class WordTokens:
    """The ids that a tokenizer gives, without its limit and special tokens.

    ``tokenizer``: one of its own, without truncation, of which ``goes_by_words`` holds.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        # A text may spell a special token, which is not cut at its brackets.
        special = [re.escape(token.content) for token in tokenizer.get_added_tokens_decoder().values()]
        self._special = re.compile("|".join(special)).search if special else None

    def __call__(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Of each text."""
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            yield from self._some(texts[start : start + _TEXTS_AT_ONCE])

    def _some(self, texts: Sequence[str]) -> list[list[int]]:
        words = [[text] if self._special and self._special(text) else _words_of(text) for text in texts]
        if len(self._known) > _MOST_WORDS:
            self._known.clear()
        new = list(set(chain.from_iterable(words)).difference(self._known))
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        self._known.update((word, encoding.ids) for word, encoding in zip(new, encodings, strict=True))
        ids = [list(chain.from_iterable(map(self._known.__getitem__, each))) for each in words]
        for word in new:
            if len(word) > _LONGEST_WORD:
                del self._known[word]
        return ids


def goes_by_words(tokenizer: Any) -> bool:
    """Whether the tokens of a text are those of its words: known of BERT's tokenizers, without added words of one's
    own, which may hold spaces."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalizes = tokenizer.normalizer is None or isinstance(tokenizer.normalizer, BertNormalizer)
    added = tokenizer.get_added_tokens_decoder().values()
    return (
        normalizes
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and all(token.special and not token.normalized for token in added)
    )
