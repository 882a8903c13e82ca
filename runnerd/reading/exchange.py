"""What the daemon and the process that reads for it say to each other: one question, one answer.

Both are MessagePack of typed data. The process has held hostile text, so its answer is decoded as data
into declared types and never unpickled.
"""

from __future__ import annotations

import msgspec

from runnerd.workflow.model import Problem, Workflow


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A file to read."""

    text: str
    path: str
    features: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The workflow, or why there is none."""

    workflow: Workflow | None = None
    problems: tuple[Problem, ...] = ()


def encode(message: Question | Answer) -> bytes:
    """Return a message as bytes."""
    return msgspec.msgpack.encode(message)


question = msgspec.msgpack.Decoder(Question).decode
answer = msgspec.msgpack.Decoder(Answer).decode
