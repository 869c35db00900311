"""A page in Chinese says what its English twin says: the same parts, commands, figures and links."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.jobs import ROOT
from tests.test_documents import PAGES

TWINS = [page for page in PAGES if page.name.endswith(".zh-CN.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CHINESE = " (?:log.language=zh|--language zh)"


def english(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh-CN.md", ".md"))


def both(page: Path) -> list[str]:
    """The two texts, the English one first, each without what leads to the other."""
    texts = [one.read_text(encoding="utf-8") for one in (english(page), page)]
    return [re.sub(r"^.*\[(?:简体中文|English)\].*\n", "", text, flags=re.M) for text in texts]


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """Language and lines of each block of code, without comments and without the key that asks for Chinese."""
    found = []
    for language, code in FENCE.findall(text):
        lines = [re.sub(CHINESE, "", re.sub(r"(^|\s)#.*", "", line)).rstrip() for line in code.splitlines()]
        found.append((language, [re.sub(r"^(\s*\S+).*", r"\1", line) if not language else line for line in lines]))
    return found


def prose(text: str) -> str:
    return FENCE.sub("", text)


def inline(text: str) -> set[str]:
    """Pieces of code in the text; a page may name one more often in one language."""
    return {re.sub(CHINESE, "", code) for code in re.findall(r"`([^`]+)`", prose(text))}


def numbers(text: str) -> list[str]:
    """Thousands with or without a comma; those of code and links are compared with these."""
    text = LINK.sub("", re.sub(r"`[^`]*`", "", text))
    return [number.replace(",", "") for number in re.findall(r"(?<![A-Za-z₀-₉])\d[\d,]*(?:\.\d+)*\b", text)]


def figures(text: str) -> set[str]:
    """Numbers of the page; one language may say one twice."""
    return set(numbers(prose(text)))


def tables(text: str) -> list[list[str]]:
    """The numbers of each row."""
    return [sorted(numbers(row)) for row in re.findall(r"^\|.*", prose(text), re.M)]


def targets(text: str) -> Counter[str]:
    """Where links and pictures lead, but for the language and the heading, whose name is translated."""
    links = (link.replace(".zh-CN.md", ".md").replace(".zh.png", ".png") for link in LINK.findall(text))
    return Counter(re.sub(r"#.*", "", link) for link in links)


@pytest.mark.parametrize("page", TWINS, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.parametrize("part", [blocks, inline, figures, tables, targets], ids=lambda part: part.__name__)
def test_both_languages_say_the_same(page: Path, part) -> None:
    here, there = map(part, both(page))
    if not isinstance(here, list):
        assert (here - there, there - here) == (type(here)(),) * 2, "only in English, only in Chinese"
    assert here == there


@pytest.mark.parametrize("page", TWINS, ids=lambda page: str(page.relative_to(ROOT)))
def test_both_languages_have_the_same_form(page: Path) -> None:
    for mark in (r"^#+", r"^\|", r"^- ", r"^\d+\. ", r"!\["):
        counts = [len(re.findall(mark, prose(text), re.M)) for text in both(page)]
        assert counts[0] == counts[1], mark


@pytest.mark.parametrize("page", TWINS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_chinese_page_leads_to_chinese_pages(page: Path) -> None:
    for link in LINK.findall(both(page)[1]):
        target = page.parent / link.partition("#")[0]
        if target.suffix == ".md" and not target.name.endswith(".zh-CN.md"):
            assert not target.with_name(f"{target.stem}.zh-CN.md").exists(), f"{page.name} leads to {link}"
    assert english(page).read_text(encoding="utf-8").count(f"[简体中文]({page.name})") == 1
    assert page.read_text(encoding="utf-8").count(f"[English]({english(page).name})") == 1
