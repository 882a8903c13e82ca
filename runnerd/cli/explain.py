"""`runnerd explain`: why each workflow and job of a run ran, was skipped or waits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import typer

from runnerd.cli import options
from runnerd.cli.control import daemon
from runnerd.cli.output import clean, show_json
from runnerd.cli.runs import RunId


def explain(run: RunId, socket: options.Socket = None, json: options.Json = False) -> None:
    """Say why each workflow and job of a run ran, was skipped or waits."""
    with daemon(socket) as client:
        answer = client.explain(run)
    if json:
        show_json(answer)
    else:
        typer.echo("\n".join(described(answer)))


def described(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield an explanation for people."""
    run = answer["run"]
    event = run["event"]
    reason = f": {clean(run['reason'])}" if run["reason"] else ""
    yield f"run {run['id']}: {clean(run['workflow_name'])}, {run['outcome'] or run['phase']}{reason}"
    yield f"  started by {clean(event['name'])} on {clean(event['ref'])} of {clean(run['repository'])}"
    yield "workflows"
    for note in answer["notes"]:
        verdict = "started" if note["matched"] else "not started"
        yield f"  {clean(note['path'])} {verdict}: {clean(note['reason'])}"
    if answer["jobs"]:
        yield "jobs"
    for job in answer["jobs"]:
        yield from _job(job["explanation"], job["legs"])


def _job(found: Mapping[str, Any], legs: list[Mapping[str, Any]]) -> Iterator[str]:
    yield f"  {clean(found['key'])}"
    for leg in legs:
        reason = f": {clean(leg['reason'])}" if leg["reason"] else ""
        yield f"    {clean(leg['name'])}: {leg['outcome'] or leg['phase']}{reason}"
    if found["reason"]:
        yield f"    {clean(found['reason'])}"
    if found["needs"]:
        needs = ", ".join(
            f"{clean(name)} {clean(how) or 'has not ended'}" for name, how in found["needs"].items()
        )
        yield f"    needs {needs}"
    if found["implied"] is not None:
        yield f"    success() is {clean(found['implied'])}"
    if found["condition"]:
        yield f"    if: {clean(found['condition'])}"
    if found["operands"] is not None:
        yield from _operand(found["operands"], 3)


def _operand(operand: Mapping[str, Any], depth: int) -> Iterator[str]:
    value = "not evaluated" if operand["value"] is None else clean(operand["value"])
    yield f"{'  ' * depth}{clean(operand['text'])} → {value}"
    for each in operand["operands"]:
        yield from _operand(each, depth + 1)
