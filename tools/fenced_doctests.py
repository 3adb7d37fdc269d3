"""For ``mkdocs.yml``: doctests in docstrings become code blocks on the site, also outside of an Examples section."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

DOCTEST = re.compile(r"(?:^>>>.*\n?)(?:^.+\n?)*", re.MULTILINE)
"""From a line with a prompt to the next empty line."""


class FencedDoctests(Extension):
    """Puts fences around the doctests of every docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(docstring: str) -> str:
    """The docstring with each doctest in a code block."""
    return DOCTEST.sub(lambda doctest: f"```pycon\n{doctest[0].rstrip()}\n```\n", docstring)
