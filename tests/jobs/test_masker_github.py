"""The eleven forms in which GitHub's runner masks a secret, each written down here on its own."""

import base64
import json
from collections.abc import Callable
from itertools import pairwise
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.jobs.masker import Masker


def base64_from(shift: int) -> Callable[[str], str]:
    return lambda secret: base64.b64encode(secret.encode()[shift:]).decode()


def trimmed(secret: str) -> str:
    return secret[1:-1] if len(secret) > 8 and secret[0] == secret[-1] == '"' else ""


def before_ampersand(secret: str) -> str:
    end = secret.index("&+") + 2 if "&+" in secret else secret.rfind("&") + 1
    return secret[:end] if end >= 6 else ""


def after_ampersand(secret: str) -> str:
    rest = secret.partition("&+")[2][1:] if "&+" in secret else secret.rpartition("&")[2]
    return rest if "&" in secret and len(rest) >= 6 else ""


ENCODERS: dict[str, Callable[[str], str]] = {
    "base64": base64_from(0),
    "base64 shifted by one": base64_from(1),
    "base64 shifted by two": base64_from(2),
    "command line": lambda secret: secret.replace('"', '\\"'),
    "expression": lambda secret: secret.replace("'", "''"),
    "JSON": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "URI": lambda secret: quote(secret, safe=""),
    "XML": lambda secret: escape(secret, {'"': "&quot;", "'": "&apos;"}),
    "without quotes": trimmed,
    "PowerShell before &": before_ampersand,
    "PowerShell after &": after_ampersand,
}

# What encoders change, more often than chance would have it.
unquoted = st.text(st.sampled_from("abcXYZ019-_ü€😀&&&++\"''<>%\\ "), min_size=9, max_size=40).map(str.strip)
quoted = st.text("abcxyz&+", min_size=8, max_size=20).map('"{}"'.format)
secrets = unquoted.filter(lambda secret: len(secret) >= 9) | quoted


def through(masker: Masker, text: str, cuts: list[int]) -> str:
    """Mask a text that comes in pieces."""
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    stream = masker.stream()
    return "".join([*(stream.feed(text[start:end]) for start, end in pairwise(places)), stream.end()])


@pytest.mark.parametrize("name", ENCODERS)
@given(secret=secrets, cuts=st.lists(st.integers(0, 120), max_size=6))
def test_no_form_of_a_secret_gets_through_however_it_is_cut(name, secret, cuts):
    """In a line of its own and in pieces cut anywhere, the encoded secret is not there any more."""
    encoded = ENCODERS[name](secret)
    if not encoded:
        return
    masker = Masker([secret])
    for text in (f"token: {encoded}!", encoded):
        assert encoded not in through(masker, text, cuts)
        assert encoded not in masker.mask(text)


@given(
    lines=st.lists(st.text("abcdefghij0123456789+/=", min_size=4, max_size=30), min_size=2, max_size=6),
    cuts=st.lists(st.integers(0, 120), max_size=6),
)
def test_every_line_of_a_secret_is_masked_in_whatever_order_it_comes(lines, cuts):
    """A key is printed line by line; each line is a secret of its own."""
    masker = Masker(["\n".join(lines)])
    for line in reversed(lines):
        assert line not in through(masker, f"> {line} <", cuts)


@pytest.mark.parametrize("line", ["}", "ab", "abc"])
def test_a_short_line_of_a_secret_stays(line):
    """Else every brace of the log would be hidden with a key file's."""
    assert Masker([f"secret-one\n{line}\nsecret-two"]).mask(f"x {line} y") == f"x {line} y"


def test_short_quoted_secrets_are_masked_with_their_quotes_alone():
    """What is between them may be an ordinary word."""
    assert Masker(['"main"']).mask('main "main"') == "main ***"
