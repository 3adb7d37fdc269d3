"""``Tokens``: a text ready for its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ESTIMATED_TOKEN_CHARS = 4
"""Characters per token, where a model shows no tokenizer that could count them."""


@dataclass(frozen=True)
class Tokens:
    """A text ready for its model."""

    value: Any
    """What the model embeds: token ids, words, or the text itself."""
    count: int
    """Tokens the model reads of it."""
    truncated: bool = False
    """Whether the text is longer than the model reads."""
