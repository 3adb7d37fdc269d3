"""Numbers, shares, bytes, durations, others' texts and columns of text as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SIZES = ((1e15, "quadrillion"), (1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def short(number: float) -> str:
    """A count in three digits.

    >>> short(999.6), short(63905), short(132_489_436), short(999_600_000), short(5e19)
    ('1,000', '63,900', '132 million', '1 billion', '50,000 quadrillion')
    """
    if number < 999_950:  # what rounds to a million is one
        return f"{round(number, -2 if number >= 1e4 else 0):,.0f}"
    size, word = next(entry for entry in _SIZES if number >= 0.9995 * entry[0])
    digits = float(f"{number / size:.3g}")
    return f"{digits:,.0f} {word}" if digits >= 100 else f"{digits:g} {word}"


def short_bytes(number: float) -> str:
    """
    >>> short_bytes(1536), short_bytes(5e9)
    ('2 KiB', '4.7 GiB')
    """
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if number >= size:
            return f"{number / size:,.0f} {unit}" if number >= 10 * size else f"{number / size:.1f} {unit}"
    return f"{number / 2**10:,.0f} KiB"


def duration(seconds: float) -> str:
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:,.0f} min" if seconds >= 120 else f"{seconds:,.0f} s"


def percent(part: float, whole: float = 1, *, bounds: bool = False) -> str:
    """A share in percent with one decimal, without the sign: never all for what is less, nor nothing for what is more.

    ``bounds``: say of such shares that they lie beyond the number.

    >>> percent(1, 3), percent(0, 5), percent(5, 5), percent(1, 0), percent(1999, 2000), percent(1, 100_000)
    ('33.3', '0', '100', '0', '99.9', '0.1')
    >>> percent(1999, 2000, bounds=True), percent(1, 100_000, bounds=True)
    ('>99.9', '<0.1')
    """
    if part <= 0 or not whole:
        return "0"
    if part >= whole:
        return "100"
    text = f"{100 * part / whole:.1f}"
    if text == "0.0":
        return "<0.1" if bounds else "0.1"
    return (">99.9" if bounds else "99.9") if text == "100.0" else text


def one_line(value: object, limit: int | None = None) -> str:
    """An id or a text from the data in one line, of at most ``limit`` characters, that a terminal obeys in nothing.

    >>> one_line("a\\n  b \\x1b[2J\\u202ec"), one_line("a long text", 7)
    ('a b \ufffd[2J\ufffdc', 'a long…')
    """
    line = _OBEYED.sub("\N{REPLACEMENT CHARACTER}", " ".join(str(value).split()))
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"


_OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn the direction of what follows, and halves of characters."""


def aligned(lines: Iterable[tuple[str, str]], *, right: bool = False) -> str:
    """Names and texts in two columns; ``right``: texts, numbers then, end at one place."""
    lines = list(lines)
    first = max((len(name) for name, _ in lines), default=0)
    second = max((len(text) for _, text in lines), default=0) if right else 0
    return "\n".join(f"  {name:<{first}}  {text:>{second}}".rstrip() for name, text in lines)


def gib(size: str | None) -> float | None:
    """A size as Spark writes it, in GiB.

    >>> gib("4g"), gib("512m"), gib(None)
    (4.0, 0.5, None)
    """
    read = re.fullmatch(r"(\d+)([kmgt]?)b?", (size or "").lower())
    return int(read[1]) * {"k": 2**-20, "m": 2**-10, "g": 1.0, "t": 2.0**10, "": 2**-30}[read[2]] if read else None
