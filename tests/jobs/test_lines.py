"""Cutting output into lines."""

from hypothesis import given
from hypothesis import strategies as st

from runnerd.jobs.lines import Lines, Piece


def texts(data: list[bytes], longest: int = 1000) -> list[str]:
    lines = Lines(longest)
    pieces = [piece for chunk in data for piece in lines.feed(chunk)] + lines.end()
    out, current = [], ""
    for piece in pieces:
        assert piece.first == (current == "") or piece.first is False
        current += piece.text
        if piece.last:
            out.append(current)
            current = ""
    return out


def test_lines_end_with_lf_crlf_or_cr():
    """A progress bar that rewrites its line gives a line for each state."""
    assert texts([b"a\nb\r\nc\rd"]) == ["a", "b", "c", "d"]
    assert texts([b"a\r", b"\nb\r", b"c"]) == ["a", "b", "c"]


def test_empty_lines_are_lines():
    """Nothing is swallowed; a text's last line end does not begin another line."""
    assert texts([b"\n\na\n"]) == ["", "", "a"]
    assert texts([]) == []


def test_a_character_cut_in_two_is_one_character():
    """Bytes of one character may come in two reads."""
    raw = "ü€😀\n".encode()
    assert texts([raw[:1], raw[1:4], raw[4:7], raw[7:]]) == ["ü€😀"]


def test_invalid_bytes_become_the_replacement_character():
    """Whatever a guest prints is text afterwards."""
    assert texts([b"\xff\xfe\x80 ok\n\xe2\x82"]) == ["\ufffd\ufffd\ufffd ok", "\ufffd"]


def test_an_endless_line_comes_in_pieces():
    """Memory is bounded by the longest piece; first and last say how they belong together."""
    lines = Lines(longest=4)
    assert lines.feed(b"abcdefghij") == [Piece("abcd", True, False), Piece("efgh", False, False)]
    assert lines.feed(b"\nk\n") == [Piece("ij", False, True), Piece("k", True, True)]


def test_a_line_of_exactly_the_longest_is_whole():
    """The limit itself is allowed."""
    assert Lines(longest=4).feed(b"abcd\n") == [Piece("abcd", True, True)]


def test_an_overlong_line_that_ends_with_the_stream_is_ended():
    """Even when its last piece is empty."""
    lines = Lines(longest=2)
    assert lines.feed(b"abc") == [Piece("ab", True, False)]
    assert lines.end() == [Piece("c", False, True)]
    assert lines.end() == []


@given(st.lists(st.binary(max_size=20), max_size=10), st.integers(1, 9))
def test_cuts_do_not_change_the_lines(chunks, longest):
    """However the bytes arrive and however short the pieces, the lines are those of the whole."""
    whole = b"".join(chunks)
    expected = whole.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if expected[-1] == "":
        expected.pop()
    assert texts(chunks, longest) == expected
