"""The process that tries problem matchers: their patterns are a job's, and may want any time and memory.

It is started with nothing of the daemon's environment, bounds itself, and answers line by line on its pipes.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import BinaryIO, Literal

import msgspec

from runnerd.jobs.matchers import BadMatcher, Found, Matcher, Scanner

MEMORY = 512 << 20
"""Bytes of address space it may have."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One request: matchers to add, owners to remove, or lines of a step, of which `ends` are the last."""

    verb: Literal["add", "remove", "lines", "end"]
    matchers: tuple[Matcher, ...] = ()
    owners: tuple[str, ...] = ()
    step: int = 0
    lines: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: an `error`, or the problems by the line's place, and the owners that were too slow."""

    error: str = ""
    found: dict[int, Found] = {}
    slow: tuple[str, ...] = ()


def serve(asks: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the requests end. MemoryError leaves: what is left of the memory is not to be trusted."""
    scanner = Scanner()
    decoder = msgspec.json.Decoder(Ask)
    for line in asks:
        answers.write(msgspec.json.encode(_answer(scanner, decoder.decode(line))) + b"\n")
        answers.flush()


def _answer(scanner: Scanner, ask: Ask) -> Answer:
    match ask.verb:
        case "add":
            try:
                scanner.add(ask.matchers)
            except BadMatcher as error:
                return Answer(error=str(error))
        case "remove":
            scanner.remove(ask.owners)
        case "end":
            scanner.end(ask.step)
        case "lines":
            found, slow = {}, []
            for at, line in enumerate(ask.lines):
                problem, owners = scanner.take(ask.step, line)
                slow += owners
                if problem is not None:
                    found[at] = problem
            return Answer(found=found, slow=tuple(slow))
    return Answer()


def main() -> None:
    """Serve the process that started this one."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.nice(5)
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except MemoryError:
        os._exit(1)


if __name__ == "__main__":
    main()
