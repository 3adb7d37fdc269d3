"""Two texts side by side: which words only one of them has, as HTML that shows the texts and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

TEXT_SHOWN = 900
ID_SHOWN = 160
"""Characters of a text and of an id that are shown."""

_WORD = re.compile(r"\w+|[^\w\s]|\s+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with U+FFFD in place of characters that HTML has no place for."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def shown_id(id_: object) -> str:
    """An id as it is shown: the beginning of a very long one."""
    text = printable(str(id_))
    return text if len(text) <= ID_SHOWN else text[: ID_SHOWN - 1] + "…"


def marked(left: str, right: str) -> tuple[Markup, Markup]:
    """Both texts, escaped; runs of words that the other lacks at that place are inside ``<mark>``.

    Changed white space alone is not marked: it seldom means anything, and cannot be seen.
    """
    words = _words(left), _words(right)
    matcher = SequenceMatcher(None, *words, autojunk=False)
    both: tuple[list[tuple[bool, str]], list[tuple[bool, str]]] = ([], [])
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        for side, run in zip(both, (words[0][start:end], words[1][other_start:other_end]), strict=True):
            text = "".join(run)
            side.append((kind != "equal" and bool(text.strip()), text))
    return _html(both[0]), _html(both[1])


def _words(text: str) -> list[str]:
    return _WORD.findall(printable(text))


def _html(runs: Iterable[tuple[bool, str]]) -> Markup:
    from markupsafe import Markup

    return Markup("").join(_parts(runs))


def _parts(runs: Iterable[tuple[bool, str]]) -> Iterator[Markup]:
    from markupsafe import Markup, escape

    for differs, text in runs:
        if not differs:
            yield escape(text)
            continue
        words = text.strip()
        before, after = text[: text.index(words)], text[text.index(words) + len(words) :]
        yield Markup("{}<mark>{}</mark>{}").format(before, words, after)
