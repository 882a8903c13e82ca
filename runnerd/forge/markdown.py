"""Strangers' text inside Markdown: it shows as it is written and formats, links and mentions nothing."""

from __future__ import annotations

import re
import unicodedata

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_BIDI = dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
_ENTITY = str.maketrans({sign: f"&#{ord(sign)};" for sign in "&<>\"'\\`*_~|[](){}!:^$"})
_LINK = re.compile(r"\b(www)\.", re.IGNORECASE)
_FENCE = re.compile(r"^ {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)$")
LONGEST_RUN = 20
"""Backticks in a row that a code block shows; a longer run is shortened to it."""
_RUN = re.compile(rf"`{{{LONGEST_RUN},}}")
ZERO_WIDTH_SPACE = "\u200b"


def plain(text: str, *, lines: bool = False) -> str:
    """Take out of a text what is not to be read: escape sequences, control characters, direction marks.

    Without `lines` every run of white space becomes one space.
    """
    text = _ANSI.sub("", text).translate(_BIDI)
    if not lines:
        text = " ".join(text.split())
    kept = "\n\t" if lines else ""
    return "".join(c for c in text if c in kept or unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp"))


def inline(text: str, limit: int = 200) -> str:
    """Write a text so that it stands in a line or a table cell as mere text, at most `limit` characters.

    Signs that could format become entities; a zero-width space behind `@` and `#` keeps GitHub, which
    looks for mentions after entities were read, from linking anybody.
    """
    text = plain(text)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    text = text.translate(_ENTITY)
    text = _LINK.sub(r"\1&#46;", text)
    # An entity's own `#` stands behind `&`, where it is left alone.
    return re.sub(r"(?<!&)([@#])(?=\w)", rf"\1{ZERO_WIDTH_SPACE}", text)


def fenced(text: str) -> str:
    """Write lines as a code block that nothing within them can end."""
    text = _RUN.sub("`" * LONGEST_RUN, plain(text, lines=True).strip("\n"))
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def cut(markdown: str, limit: int, note: str) -> str:
    """Shorten Markdown to `limit` bytes of UTF-8, between two lines or two characters, ending with `note`.

    A code block and the folded sections that are open at the cut are closed.
    """
    if len(markdown.encode()) <= limit:
        return markdown
    room = limit - len(note.encode()) - 200  # for what closes the open blocks
    kept = markdown.encode()[: max(0, room)].decode("utf-8", "ignore")
    at = kept.rfind("\n")
    if at > len(kept) // 2:
        kept = kept[:at]
    fence, folds = "", 0
    for line in kept.split("\n"):
        match = _FENCE.match(line)
        if fence:
            ends = match and match[1].startswith(fence) and not match[2].strip()
            fence = "" if ends else fence
        elif match:
            fence = match[1]
        else:
            folds += line.count("<details>") - line.count("</details>")
    closing = (f"\n{fence}" if fence else "") + "\n</details>" * min(folds, 5)
    return f"{kept}{closing}\n\n{note}"
