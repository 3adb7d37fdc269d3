"""The page as text: whole, self-contained, escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from report.results import HOSTILE, report_data, text

from spark_semdedup.report.html import render
from spark_semdedup.report.rows import Text

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

VOID = {"meta", "link", "input", "img", "br", "use"}


class Outline(HTMLParser):
    """Elements with their attributes, ids and text; fails on one that is closed without being open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    return render(report_data())


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


def test_elements_are_closed_and_ids_are_unique(outline: Outline):
    assert outline.open == []
    ids = [attrs["id"] for _, attrs in outline.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_every_link_leads_to_a_place_in_the_page(outline: Outline):
    ids = {attrs.get("id") for _, attrs in outline.elements}
    targets = [attrs["href"] for attrs in outline.named("a")]
    assert targets
    assert all(str(target).startswith("#") and str(target)[1:] in ids for target in targets)


def test_nothing_is_loaded(page: str, outline: Outline):
    loading = [
        attrs.get("src") or attrs.get("href")
        for tag, attrs in outline.elements
        if tag in ("img", "image", "link", "script")
    ]
    assert all(target is None or target.startswith("data:") for target in loading)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_only_our_own_script_may_run(page: str):
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_a_hostile_text_is_shown_and_makes_no_element(page: str, outline: Outline):
    assert HOSTILE not in page
    assert HOSTILE in "".join(outline.text)
    assert outline.named("img") == []


def test_hostile_ids_and_settings_are_escaped():
    data = report_data(facts={"parameters": {"idCol": HOSTILE}, "versions": {HOSTILE: HOSTILE}})
    assert HOSTILE not in render(data)


def test_least_similar_removed_pair_comes_first(page: str):
    section = page[page.index('id="above"') :]
    assert re.search(r"<strong>([\d.]+)</strong>", section)[1] == "0.9503"  # type: ignore[index]
    assert "<mark>sounds</mark>" in section[: section.index("0.9804")]


def test_largest_group_is_named(page: str):
    first = page[page.index('id="group-1"') :]
    assert "4 rows" in first[:300]
    assert "root" in first[:300]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"picture": None, "sample": None}, "Why this eps"),
        ({"texts": {}, "text_column": None}, "Ids only"),
        ({"is_whole_input": False}, "Texts of kept rows only"),
        ({"history": ()}, "no fit, or none that reports it"),
        ({"facts": {"complete_eps": 0.05, "complete_from": 0.95, "coverage": "exact"}}, "lower bounds only"),
        ({"facts": {"hardware": {"master": "local[2]"}}}, "local[2]"),
    ],
)
def test_what_is_absent_is_said(changes: dict, shown: str):
    page = render(report_data(**changes))
    Outline(page)
    assert shown in page


def test_a_run_without_duplicates_has_a_page():
    from spark_semdedup.report.links import Groups
    from spark_semdedup.report.pairs import PairGallery

    data = report_data(
        facts={"duplicates": 0, "kept": 1000},
        groups=Groups.none(),
        pairs=PairGallery((), (), ()),
    )
    assert "none is a duplicate" in render(data)


def test_equal_data_give_equal_pages(page: str):
    assert render(report_data()) == page


def test_without_jinja2_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    import sys

    from spark_semdedup.errors import SemDedupError

    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(SemDedupError, match=re.escape("pip install 'spark-semdedup[report]'")):
        render(report_data())


@pytest.mark.slow
def test_texts_and_ids_of_any_length_make_no_page_beyond_5_mb():
    from spark_semdedup.report.links import GROUPS_SHOWN, MEMBERS_SHOWN, Group, Groups, Member
    from spark_semdedup.report.pairs import AT_THE_EDGE, IN_A_BAND, Band, Pair, PairGallery
    from spark_semdedup.report.rows import Text
    from spark_semdedup.report.words import TEXT_SHOWN

    def id_(number: int) -> str:
        return f"{number} " + "&" * 100_000

    pairs = [Pair(id_(i), id_(i + 1), 0.97, True) for i in range(AT_THE_EDGE)]
    group = Group(id_(0), 10**9, tuple(Member(id_(i), id_(i + 1), 0.97) for i in range(MEMBERS_SHOWN)))
    bands = tuple((Band(0.95 + i / 1000, 0.951 + i / 1000), 10**9, tuple(pairs[:IN_A_BAND])) for i in range(7))
    # Every other word differs, every character is an entity.
    texts = {id_(i): Text("".join(f"{'<>'[(i + j) % 2]} &" for j in range(TEXT_SHOWN // 3)), 10**9) for i in range(20)}
    data = report_data(
        groups=Groups((group,) * GROUPS_SHOWN, np.arange(10**5, 1, -1), np.full(10**5 - 1, 7)),
        pairs=PairGallery(tuple(pairs), tuple(pairs), bands),
        texts=texts,
    )
    assert len(render(data).encode()) < 5_000_000


def test_texts_that_differ_beyond_what_is_shown_are_not_called_the_same():
    cut, whole = Text("the same beginning", 1000), text("the same words")
    for each, is_same in ((cut, False), (whole, True)):
        texts = {**report_data().texts, "root": each, "least": each}
        assert ("(the text of the kept row)" in render(report_data(texts=texts))) is is_same
