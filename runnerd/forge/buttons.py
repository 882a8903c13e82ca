"""What somebody pressed at a check run of ours: run again, or our own buttons. Pure.

GitHub lets only people press them who may write to the repository, and sends it to the check run's App
alone. What is meant is said by the check run's `external_id`, which still has to fit the run it names.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from runnerd.model import Event

from .checks import CANCEL, RERUN, Subject, subject_of


class Press(msgspec.Struct, frozen=True, kw_only=True):
    """A wish about one run or one job of it (`subject`), or about all runs of a commit (`sha`).

    Only a job's wish to run again is about that job, with those that need it; an end is always a run's.
    """

    wish: Literal["rerun", "cancel"]
    subject: Subject | None = None
    sha: str = ""


def pressed(event: Event) -> Press | None:
    """Return what an event asks of us; None when it is no press of a button of ours."""
    match event.name, event.action:
        case "check_run", "rerequested":
            wish = RERUN
        case "check_run", "requested_action":
            wish = _text(event.payload, "requested_action", "identifier")
        case "check_suite", "rerequested":
            sha = _text(event.payload, "check_suite", "head_sha")
            return Press(wish="rerun", sha=sha) if sha else None
        case _:
            return None
    subject = subject_of(_text(event.payload, "check_run", "external_id"))
    if subject is None or wish not in (RERUN, CANCEL):
        return None
    return Press(wish="cancel" if wish == CANCEL else "rerun", subject=subject)


def _text(payload: Any, *path: str) -> str:
    for key in path:
        payload = payload.get(key) if isinstance(payload, dict) else None
    return payload if isinstance(payload, str) else ""
