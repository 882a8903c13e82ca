"""The event a command is about: its payload from a file, or made from a checkout as a forge would send it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import trio

from runnerd.cli import checkout
from runnerd.cli.output import Code, fail
from runnerd.forge import events
from runnerd.git.process import GitError
from runnerd.model import Event


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it would be delivered, decoded, and the files it changed where the checkout can tell."""

    event: Event
    body: bytes
    changed: tuple[str, ...] | None


def happened(
    path: Path, name: str, payload: Path | None, *, workflow: str = "", inputs: Mapping[str, str]
) -> Happened:
    """Make or read the event; ends the command with a sentence where that cannot be done."""
    changed: tuple[str, ...] | None = None
    if payload is not None:
        try:
            body = payload.read_bytes()
        except OSError as error:
            fail(f"{payload} cannot be read: {error.strerror}")
    else:
        if name not in checkout.EVENTS:
            fail(f"no payload can be made for {name!r}: give one with --payload")
        if name == "workflow_dispatch" and not workflow:
            fail("workflow_dispatch starts one workflow file: name it with --workflow FILE")
        try:
            facts = trio.run(checkout.describe, path)
            changed = (*facts.added, *facts.modified, *facts.removed)
        except GitError:  # a folder that is no repository can be planned all the same
            facts = checkout.Checkout(
                full_name=checkout.name_of("", path.absolute()), ref="refs/heads/main", sha="0" * 39 + "1"
            )
        body = msgspec.json.encode(checkout.payload(name, facts, inputs=inputs, workflow=workflow))
    try:
        decoded = events.decode(name, "local", body)
    except events.Malformed as error:
        fail(f"the payload is not one of {name}: {error}")
    if isinstance(decoded, events.Ignored):
        fail(f"{name} starts nothing: {decoded.reason}", Code.NOTHING)
    return Happened(event=decoded, body=body, changed=changed)
