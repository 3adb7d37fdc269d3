"""Texts side by side: nothing of them is lost, nothing runs, and the marks are at the differences."""

from __future__ import annotations

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.results import HOSTILE

from spark_semdedup.report.words import marked, printable

pytest.importorskip("markupsafe")


def plain(markup: str) -> str:
    return unescape(markup.replace("<mark>", "").replace("</mark>", ""))


@given(st.text(max_size=60), st.text(max_size=60))
def test_texts_are_whole_and_no_other_element_is_made(left: str, right: str):
    both = marked(left, right)
    for text, markup in zip((left, right), both, strict=True):
        assert plain(markup) == printable(text)
        assert set(re.findall(r"<[^>]*>", markup)) <= {"<mark>", "</mark>"}


def test_words_that_differ_are_marked_on_both_sides():
    left, right = marked("the red library of Qt", "the blue library of Qt, too")
    assert left == "the <mark>red</mark> library of Qt"
    assert right == "the <mark>blue</mark> library of Qt<mark>, too</mark>"
    assert marked("a (b) c", "a c")[0] == "a <mark>(b)</mark> c"


def test_white_space_alone_is_no_difference():
    left, right = marked("one  two\nthree", "one two three")
    assert "<mark>" not in left + right


def test_script_is_text():
    left, _ = marked(HOSTILE, "harmless")
    assert "<script" not in left
    assert plain(left) == HOSTILE


def test_characters_that_html_has_no_place_for_are_shown_as_such():
    assert printable("a\x00b\x1fc\n") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c\n"
