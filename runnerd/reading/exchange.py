"""What the daemon and the process that reads for it say to each other: one question, one answer.

Both are MessagePack of typed data. The process has held hostile text, so its answer is decoded as data
into declared types and never unpickled.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from runnerd.workflow.model import Problem, Workflow


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A file to read."""

    text: str
    path: str
    features: tuple[str, ...] = ()
    files: dict[str, str] | None = None
    """Reusable workflows by the name `uses` gives them from this file; None where none is looked up."""
    missing: dict[str, str] = msgspec.field(default_factory=dict)
    """Those that are not there, and why."""


def resolver(question: Question) -> Callable[[str], str] | None:
    """How `load` finds the reusable workflows of a question."""
    files, missing = question.files, question.missing
    if files is None:
        return None

    def find(name: str) -> str:
        if name not in files:
            raise LookupError(missing.get(name, "it is not at hand"))
        return files[name]

    return find


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The workflow, or why there is none."""

    workflow: Workflow | None = None
    problems: tuple[Problem, ...] = ()


def encode(message: Question | Answer) -> bytes:
    """Return a message as bytes."""
    return msgspec.msgpack.encode(message)


question = msgspec.msgpack.Decoder(Question).decode
answer = msgspec.msgpack.Decoder(Answer).decode
