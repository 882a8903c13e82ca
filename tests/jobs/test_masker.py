"""Secrets that leave a job."""

import base64
import json
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.jobs.masker import Masker

SECRET = "p@ss w/\"ord'<&>+ü"

plain = st.characters(exclude_characters="*")  # so that what is left can be told from the masks
secrets = st.lists(st.text(plain, min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=4)


def test_a_secret_is_replaced_wherever_it_stands():
    """Twice, at the ends, and inside a word."""
    assert Masker(["hunter2"]).mask("hunter2 xhunter2y hunter2") == "*** x***y ***"


def test_overlapping_and_touching_secrets_become_one_mask():
    """No part of either is left between them."""
    assert Masker(["abcd", "cdef"]).mask("xabcdefx abcdcdef") == "x***x ***"


def test_blank_secrets_mask_nothing():
    """An empty or blank value would hide everything."""
    masker = Masker(["", "  ", "\n"])
    assert masker.mask("a b") == "a b"
    assert masker.count == 0


def test_each_line_of_a_secret_is_masked():
    """A key of several lines is often printed line by line; lines of a few characters stay."""
    masker = Masker(["-----BEGIN-----\nMIIabc\n}\n-----END-----\n"])
    assert masker.mask("> MIIabc <") == "> *** <"
    assert masker.mask("} else {") == "} else {"


@pytest.mark.parametrize(
    "encoded",
    [
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        quote(SECRET, safe=""),
        quote(SECRET),
        "p@ss w/\"ord'&lt;&amp;&gt;+ü",
        "p@ss w/&quot;ord&apos;&lt;&amp;&gt;+ü",
        SECRET.replace("'", "''"),
        SECRET.replace("'", "'\\''"),
        SECRET.replace('"', '\\"'),
    ],
)
def test_encodings_of_a_secret_are_masked(encoded):
    """JSON, URI, XML, expression and shell forms."""
    assert Masker([SECRET]).mask(f"<{encoded}>") == "<***>"


@given(st.binary(max_size=7), st.binary(max_size=7), st.text(min_size=8, max_size=60).filter(str.strip))
def test_base64_of_anything_that_holds_the_secret_gives_it_away_nowhere(before, after, secret):
    """Whatever stands around the secret, what of the base64 depends on the secret alone is masked."""
    secret = secret.strip()
    if len(secret) < 8 or "\n" in secret or len(secret.splitlines()) != 1:
        return
    raw = secret.encode(errors="replace")
    text = base64.b64encode(before + raw + after).decode()
    start = -(-len(before) * 8 // 6)
    end = (len(before) + len(raw)) * 8 // 6
    assert text[start:end] not in Masker([secret]).mask(text)


def test_wrapped_base64_of_a_long_secret_is_masked():
    """As `base64` prints it, 76 characters a line."""
    secret = "".join(chr(33 + n % 90) for n in range(200))
    masker = Masker([secret])
    for line in base64.encodebytes(secret.encode()).decode().splitlines():
        assert masker.mask(line).strip("=") == "***"


@given(secrets, st.text(plain, max_size=80), st.data())
def test_no_text_keeps_a_secret(values, text, data):
    """Whatever is masked, none of the secrets' forms is left in what comes out around the masks."""
    masker = Masker(values)
    for value in values:
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + value + text[at:]
    out = masker.mask(text)
    assert "***" in out
    for part in out.split("***"):
        assert not masker.reveals(part)


@given(secrets, st.text(plain, max_size=60), st.lists(st.integers(0, 200), max_size=8), st.data())
def test_no_cut_lets_a_secret_through(values, text, cuts, data):
    """In pieces cut anywhere, what comes out holds no form of a secret, and loses nothing else."""
    for value in values:
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + value + text[at:]
    masker = Masker(values)
    stream = masker.stream()
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[start:end] for start, end in pairwise(places)]
    out = "".join([*map(stream.feed, pieces), stream.end()])
    for part in out.split("***"):
        assert not masker.reveals(part)
    # The same characters are hidden as when the text comes whole; only the masks may be more.
    assert out.replace("***", "") == masker.mask(text).replace("***", "")


def test_a_stream_holds_back_only_what_may_be_a_secret():
    """What is certain comes out at once, the rest with what follows."""
    masker = Masker(["hunter2"])
    stream = masker.stream()
    first = stream.feed("x" * 100 + "hunt")
    assert len(first) == 104 - (masker.longest - 1)
    second = stream.feed("er2" + "y" * 100)
    assert second.startswith("x" * (100 - len(first)) + "***y")
    assert first + second + stream.end() == "x" * 100 + "***" + "y" * 100


@pytest.mark.parametrize("cut", range(0, 24, 3))
def test_a_secret_after_nothing_but_secrets_is_masked_wherever_it_is_cut(cut):
    """Where finding every secret would take too long, the next one's beginning is not forgotten."""
    token = "ghp_REALSECRETVALUE0123"
    stream = Masker(["0", token]).stream()
    out = stream.feed("0" * 20_000 + token[:cut]) + stream.feed(token[cut:] + " tail") + stream.end()
    assert out.replace("***", "") == " tail"


def test_a_secret_that_begins_as_another_does_is_masked_whole():
    """Also when the piece ended with the shorter one."""
    stream = Masker(["passwd", "passwd-EXTENDED-SECRET"]).stream()
    out = stream.feed("passwd") + stream.feed("-EXTENDED-SECRET and more") + stream.end()
    assert out.replace("***", "") == " and more"
    stream = Masker(["passwd", "passwd-EXTENDED-SECRET"]).stream()
    assert (stream.feed("passwd") + stream.feed(" is") + stream.end()).replace("***", "") == " is"


def test_a_stream_of_nothing_but_secrets_does_not_grow():
    """A secret repeated without end is passed on as it comes."""
    stream = Masker(["aa"]).stream()
    for _ in range(100):
        stream.feed("a" * 900)
    assert len(stream.end()) < 50


def test_a_secret_added_later_is_masked_from_then_on():
    """`add-mask` acts on what follows."""
    masker = Masker()
    assert masker.mask("later") == "later"
    masker.add("later")
    assert (masker.mask("later"), masker.reveals("later")) == ("***", True)


def test_a_text_of_nothing_but_secrets_is_one_mask_at_once():
    """A guest cannot make the host count a million matches."""
    masker = Masker(["ab", "ba"])
    assert masker.mask("ab" * 500_000) == "***"
    stream = masker.stream()
    assert {stream.feed("ab" * 30_000) for _ in range(20)} == {"***"}
    assert stream.end() == ""


def test_the_cost_grows_with_secrets_and_text():
    """Whoever masks can see when it should be done aside."""
    few, many = Masker(["abcdefgh"]), Masker([f"secret-{n}" for n in range(100)])
    assert many.cost("x" * 1000) > 40 * few.cost("x" * 1000)
    assert few.cost("x" * 1000) > few.cost("")
