"""The process that reads one workflow file: a question on standard input, its answer on standard output.

Arguments: bytes of memory that it may take beyond the question itself, and seconds of processor time. The
kernel holds it to both.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys

from runnerd.reading import exchange
from runnerd.workflow.model import Problem, WorkflowErrors
from runnerd.workflow.reader import load

NICENESS = 10
"""Who waits for the daemon goes before who waits for a large file."""
FILES = 16
"""File descriptors it may have: it opens nothing but modules."""


def main() -> int:
    """Answer and return 0."""
    memory, seconds = map(int, sys.argv[1:3])
    asked = exchange.question(sys.stdin.buffer.read())
    message = f"reading the file would take more than {memory >> 20} MiB of memory: make it smaller"
    problem = Problem(path=asked.path, line=1, column=1, message=message)
    answer = exchange.encode(exchange.Answer(problems=(problem,)))  # while there is memory for it
    _limit(memory, seconds)
    with contextlib.suppress(MemoryError):
        answer = _answer(asked)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return 0


def _limit(memory: int, seconds: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        has = int(file.read().split()[0]) * resource.getpagesize()
    for kind, limit in (
        (resource.RLIMIT_AS, has + memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, FILES),
    ):
        resource.setrlimit(kind, (limit, limit))
    os.nice(NICENESS)


def _answer(asked: exchange.Question) -> bytes:
    try:
        workflow = load(
            asked.text, path=asked.path, features=frozenset(asked.features), resolve=exchange.resolver(asked)
        )
    except WorkflowErrors as errors:
        return exchange.encode(exchange.Answer(problems=errors.problems))
    return exchange.encode(exchange.Answer(workflow=workflow))


if __name__ == "__main__":
    sys.exit(main())
