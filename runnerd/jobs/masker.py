"""Keeps secrets out of whatever leaves a job: their text, and what common encodings make of it.

Masking is done on the host, before anything is stored. It guards against accidents; a job that wants to
give a secret away can.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from urllib.parse import quote
from xml.sax.saxutils import escape

MASK = "***"

SHORT = 4
"""A secret, or a line of one, with fewer characters is masked only where it stands whole as written."""

_SHORT_PIECE = 6
_QUOTED = 8
"""A quoted secret with more characters is also masked without its quotes."""
_WRAPPED = (76, 64)
"""Where `base64` and `openssl` break their lines."""


class Masker:
    """Replaces every occurrence of its secrets, and of their encoded forms, by `***`.

    Blank values are ignored. `mask` is for a text at hand, `stream` for one that comes in pieces.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms: tuple[str, ...] = ()
        self.longest = 0
        """Characters of the longest form."""
        self.values: list[str] = []
        """Those added, in their order."""
        for secret in secrets:
            self.add(secret)

    @property
    def count(self) -> int:
        """How many values were added."""
        return len(self.values)

    def add(self, value: str) -> None:
        """Mask this value from now on."""
        if not value.strip():
            return
        self.values.append(value)
        forms = dict.fromkeys((*self._forms, *_forms(value)))
        self._forms = tuple(forms)
        self.longest = max(map(len, forms))

    def mask(self, text: str) -> str:
        """Return the text with every secret replaced; touching and overlapping ones become one `***`."""
        places = self.find(text)
        if not places:
            return text
        parts = []
        at = 0
        for start, end in _merged(places):
            parts += [text[at:start], MASK]
            at = end
        return "".join([*parts, text[at:]])

    def reveals(self, text: str) -> bool:
        """Whether there is anything to mask in the text."""
        return any(form in text for form in self._forms)

    def stream(self) -> Stream:
        """Return a mask for one text that comes in pieces, cut anywhere."""
        return Stream(self)

    def cost(self, text: str) -> int:
        """Return about how many characters masking this text compares."""
        return len(self._forms) * (len(text) + 50)

    def find(self, text: str) -> list[tuple[int, int]]:
        """Return where secrets stand, as (start, end), in no order and possibly overlapping.

        A text that is little else than secrets is one as a whole: finding them all would take too long.
        """
        places = []
        most = 1000 + len(text) // 16
        for form in self._forms:
            at = text.find(form)
            while at >= 0:
                places.append((at, at + len(form)))
                if len(places) > most:
                    return [(0, len(text))]
                at = text.find(form, at + 1)
        return places


class Stream:
    """Masks one text that comes in pieces: no cut lets a secret through.

    It holds back what may be the beginning of a secret: less than twice the longest form.
    """

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._held = ""
        self._hide = 0
        """Characters at the beginning of what is held that are masked in any case."""
        self._joins = False
        """Whether a mask was the last that came out, and what is held begins within the same."""

    def feed(self, piece: str) -> str:
        """Take the next piece, and return what is certain by now."""
        text = self._held + piece
        return self._release(text, max(0, len(text) - max(0, self._masker.longest - 1)))

    def end(self) -> str:
        """Return what was held back; the text is over, and another may begin."""
        rest = self._release(self._held, len(self._held))
        self._hide, self._joins = 0, False
        return rest

    def _release(self, text: str, cut: int) -> str:
        """Return the text as far as `cut`, masked, and hold the rest."""
        places = self._masker.find(text)
        if places == [(0, len(text))]:
            # Little else than secrets. The beginning of one more may stand at its end all the same, and the
            # end of one at the beginning of what is held.
            self._held, self._hide = text[cut:], len(text) - cut
            self._joins = (self._joins or cut > 0) and self._hide > 0
            return MASK if cut else ""
        if self._hide:
            places.append((0, self._hide))
        # A secret across the cut is held whole; so is, with it, all that overlaps its beginning.
        cut = min([cut, *(start for start, end in places if start < cut < end)])
        parts = []
        at = 0
        for start, end in _merged([(start, min(end, cut)) for start, end in places if start < cut]):
            parts += [text[at:start], MASK]
            at = end
        if self._joins and cut:
            del parts[:2]  # it goes on where the last mask ended
        self._held, self._hide = text[cut:], max(0, self._hide - cut)
        self._joins = self._joins and cut == 0
        return "".join([*parts, text[at:cut]])


def _merged(places: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start, end = -1, -1
    for low, high in sorted(places):
        if low > end:
            if end >= 0:
                yield start, end
            start = low
        end = max(end, high)
    if end >= 0:
        yield start, end


def _forms(value: str) -> Iterator[str]:
    """Yield the value, its lines, and what encodings make of each."""
    yield value
    stripped = value.strip()
    yield stripped
    for line in {stripped, *(line.strip() for line in value.splitlines())}:
        if len(line) < SHORT:
            continue
        yield line
        yield from _encoded(line)
        if len(line) > _QUOTED and line[0] == line[-1] == '"':
            yield line[1:-1]
        yield from (part for part in _at_ampersand(line) if len(part) >= _SHORT_PIECE)
    if "\n" in value:
        # A key of several lines is often encoded as a whole.
        yield from _pieces(value.encode(errors="replace"))


def _encoded(text: str) -> Iterator[str]:
    yield from (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    everything, path = (quote(text, safe=safe, errors="replace") for safe in ("", "/"))
    yield from (everything, path, everything.replace("%20", "+"))
    yield from (escape(text), escape(text, {'"': "&quot;", "'": "&apos;"}), escape(text, {"'": "&#39;"}))
    yield text.replace("'", "''")
    yield text.replace("'", "'\\''")
    yield text.replace('"', '\\"')
    yield from _pieces(text.encode(errors="replace"))


def _at_ampersand(text: str) -> tuple[str, ...]:
    """Return both parts of what PowerShell tears apart when a secret with `&` is run as a command.

    A `&+` swallows the character after it.
    """
    at = text.find("&+")
    if at >= 0:
        return text[: at + 2], text[at + 3 :]
    at = text.rfind("&")
    return (text[: at + 1], text[at + 1 :]) if at >= 0 else ()


def _pieces(raw: bytes) -> Iterator[str]:
    """Yield what is sure to stand in base64 of anything that holds these bytes, at each of three offsets."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):
            text = encode(bytes(shift) + raw).decode()
            sure = text[(0, 2, 3)[shift] : (shift + len(raw)) * 8 // 6]
            if len(sure) >= _SHORT_PIECE:
                yield sure
            # And what stands there when the secret's first bytes were cut off, as GitHub masks it too.
            rest = encode(raw[shift:]).decode()[: len(raw[shift:]) * 8 // 6]
            if len(rest) >= _SHORT_PIECE:
                yield rest
        whole = encode(raw).decode()
        if len(whole) >= _SHORT_PIECE:
            yield whole.rstrip("=")
        for width in _WRAPPED:
            if len(whole) > width:
                lines = (whole[at : at + width] for at in range(0, len(whole), width))
                yield from (line for line in lines if len(line.rstrip("=")) >= 2 * _SHORT_PIECE)
