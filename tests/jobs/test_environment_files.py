"""GITHUB_ENV, GITHUB_OUTPUT and GITHUB_PATH."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.jobs.environment_files import (
    ENTRIES,
    BadEnvironmentFile,
    is_refused,
    parse_pairs,
    parse_paths,
    prepend,
)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", []),
        ("a=1", [("a", "1")]),
        ("a=1\n\nb=\n", [("a", "1"), ("b", "")]),
        ("a=b=c<<d\n", [("a", "b=c<<d")]),
        ("a=1\r\n", [("a", "1\r")]),
        ("\ufeffa=1\n", [("a", "1")]),
        ("a b = c\n", [("a b ", " c")]),
        ("a<<EOF\nEOF\n", [("a", "")]),
        ("a<<EOF\n\nEOF\n", [("a", "")]),
        ("a<<EOF\n1\n\n2\nEOF", [("a", "1\n\n2")]),
        ("a<<EOF\nEOF \n EOF\nEOF\nb=2", [("a", "EOF \n EOF"), ("b", "2")]),
        ("a<<E=F\nx\nE=F\n", [("a", "x")]),
        ("a<<EOF\nx\r\nEOF\n", [("a", "x\r")]),
        ("a<<b<<c\nx\nb<<c\n", [("a", "x")]),
        ("a=1\na=2\n", [("a", "1"), ("a", "2")]),
    ],
)
def test_pairs_are_read_as_github_reads_them(text, pairs):
    """`=` before `<<` makes a value, `<<` before `=` a block; CR belongs to the value."""
    assert parse_pairs(text) == pairs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "'nonsense' is neither"),
        ("=1", "the name is missing"),
        ("<<EOF\nx\nEOF", "the name or the delimiter is missing"),
        ("a<<\nx\n", "the name or the delimiter is missing"),
        ("a<<EOF\nx\n", "the closing delimiter 'EOF' of 'a' is missing"),
        ("a<<EOF\nx\nEOF\r\n", "the closing delimiter 'EOF' of 'a' is missing"),
        ("a<<EOF", "the closing delimiter 'EOF' of 'a' is missing"),
    ],
)
def test_a_broken_file_says_what_is_wrong(text, said):
    """Every error names the line or the delimiter."""
    with pytest.raises(BadEnvironmentFile, match=said):
        parse_pairs(text)


def test_an_error_does_not_repeat_a_megabyte():
    """What is shown of a bad line is short."""
    with pytest.raises(BadEnvironmentFile) as caught:
        parse_pairs("x" * 1_000_000)
    assert len(str(caught.value)) < 200


names = st.text(st.characters(exclude_characters="=<\n\ufeff"), min_size=1, max_size=9)
values = st.text(st.characters(exclude_characters="\ufeff"), max_size=30)


@given(st.lists(st.tuples(names, values), max_size=5))
def test_what_is_written_as_blocks_is_read_back(pairs):
    """With a delimiter of its own any value survives, whatever its lines look like."""
    text = "".join(f"{name}<<ghadelimiter_1\n{value}\nghadelimiter_1\n" for name, value in pairs)
    assert parse_pairs(text) == pairs


@given(st.text(max_size=100))
def test_no_text_breaks_the_parser(text):
    """Pairs or a sentence, nothing else."""
    try:
        pairs = parse_pairs(text)
    except BadEnvironmentFile:
        return
    assert all(name for name, _ in pairs)


def test_paths_are_lines():
    """Empty lines are skipped, any line end ends."""
    assert parse_paths("/a\n\n/b\r\n/c d\r/e") == ["/a", "/b", "/c d", "/e"]


def test_the_last_path_comes_first_and_each_once():
    """Adding a folder again moves it to the front."""
    assert prepend(["/x"], ["/a", "/b", "/a"]) == ["/a", "/b", "/x"]


@pytest.mark.parametrize("name", ["NODE_OPTIONS", "node_options"])
def test_what_would_run_code_in_actions_is_refused(name):
    """However it is spelled."""
    assert is_refused(name)
    assert not is_refused("NODE_ENV")


def test_too_many_names_are_refused():
    """A file of them would hold up other jobs."""
    parse_pairs("a=1\n" * ENTRIES)
    with pytest.raises(BadEnvironmentFile, match="more than 50000 names"):
        parse_pairs("a=1\n" * (ENTRIES + 1))
