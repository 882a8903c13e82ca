"""Behaviour of runnerd.forge.markdown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.forge.markdown import cut, fenced, inline, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, 3.12 (x)", "plain words, 3.12 &#40;x&#41;"),
        ("a|b", "a&#124;b"),
        ("`rm`", "&#96;rm&#96;"),
        ("<img src=x>", "&#60;img src=x&#62;"),
        ("[x](https://evil)", "&#91;x&#93;&#40;https&#58;//evil&#41;"),
        ("www.evil.example", "www&#46;evil.example"),
        ("@octocat and @org/team", "@\u200boctocat and @\u200borg/team"),
        ("fixes #12", "fixes #\u200b12"),
        ("a\nb\r\n\tc", "a b c"),
        ("\x1b[31mred\x1b[0m\x1b]8;;http://x\x07link", "redlink"),
        ("\u202egnp.exe", "gnp.exe"),
        ("nul\x00 sur\udcff", "nul sur"),
        ("&lt;", "&#38;lt;"),
    ],
)
def test_inline_text_formats_and_mentions_nothing(text, shown):
    """Every sign that could format, link or mention is defused, and control characters are gone."""
    assert inline(text) == shown


def test_inline_text_is_bounded():
    """A long text is cut before it is escaped, so that no entity is cut in half."""
    assert inline("|" * 300, 5) == "&#124;" * 4 + "…"


@given(st.text())
def test_inline_never_leaves_a_sign_that_could_format(text):
    """No input brings a formatting sign, a new line or a mention through."""
    shown = inline(text)
    assert not re.search(r"[<>`|*_\[\]()\\\n\r~]", shown)
    assert not re.search(r"@\w", shown)
    assert not re.search(r"(?<!&)#\w", shown)
    shown.encode()


def test_a_fence_is_longer_than_any_inside():
    """Backticks in a log cannot end its block."""
    block = fenced("before\n````\n@octocat </details>\nafter")
    assert block.startswith("`````text\n")
    assert block.endswith("\n`````")


@given(st.text())
def test_nothing_ends_a_code_block_early(text):
    """The closing fence stands only at the end."""
    lines = fenced(text).split("\n")
    assert lines[-1] not in lines[1:-1]
    "\n".join(lines).encode()


def test_plain_keeps_lines_only_where_asked():
    """New lines and tabs survive for a block and become spaces in a line."""
    assert plain("a\n\tb", lines=True) == "a\n\tb"
    assert plain("a\n\tb") == "a b"


def test_short_markdown_is_not_cut():
    """At the limit nothing happens."""
    assert cut("é" * 10, 20, "note") == "é" * 10


def test_a_cut_closes_what_is_open():
    """A code block and a folded section are ended before the note."""
    text = "<details><summary>x</summary>\n\n````text\n" + "line\n" * 1000 + "````\n</details>"
    short = cut(text, 1000, "cut here")
    assert len(short.encode()) <= 1000
    assert short.endswith("line\n````\n</details>\n\ncut here")


def test_a_cut_keeps_characters_whole():
    """A character of several bytes is kept or dropped, never halved."""
    short = cut("😀" * 1000, 999, "note")
    assert short.replace("😀", "") == "\n\nnote"
    assert len(short.encode()) <= 999
