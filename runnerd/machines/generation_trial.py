"""The trial of a new generation of an image: who serves meanwhile, what counts, and how it ends.

A generation that follows another is current from the moment it is built, but takes over only once jobs had
their machines from it, one at a time, and it lost none of them; meanwhile the one before goes on serving.
All of it is decided here from what is known; `generations` keeps the record, and the pool makes the machines.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import msgspec

TOO_MANY = 2
"""Canaries that fail before a generation goes back: one may be the host's bad moment, or its job's doing."""
RETRY = 30.0
"""Seconds after a canary that failed in which all machines are of the generation before."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What is on record of a generation's trial: the file `DIGEST.trial` beside the generations."""

    digest: str
    before: str
    """The generation that serves meanwhile, and to which it goes back."""
    good: int = 0
    bad: int = 0
    reason: str = ""
    """Why the last canary that failed did."""
    lost_by: tuple[str, ...] = ()
    """The repositories whose jobs lost a canary."""
    ended: Literal["", "passed", "failed"] = ""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How an image stands on disk."""

    current: str
    trial: Trial | None = None
    """Of the current generation, while it is open and there is a whole one before it to go back to."""
    failed: Trial | None = None
    """Of the newest generation, when it was built after the current one and went back."""
    overtaken: tuple[Trial, ...] = ()
    """Those that were open when another was built; one that has passed is in here until that is written."""


class Succession(msgspec.Struct, frozen=True, kw_only=True):
    """Which generation of an image machines are made from now, and which is to follow. Empty: none."""

    serving: str = ""
    coming: str = ""
    trial: Trial | None = None
    """Of what is coming; without one it is to come up once, as after going back by hand."""
    retry_at: float = 0.0
    """When the next canary may be made."""
    reason: str = ""
    """Why the last canary of what is coming failed."""
    refused: str = ""
    """What failed its trial here, until the disk says so as well."""


class Verdict(enum.StrEnum):
    """What an event made of the generation that was coming."""

    OPEN = "open"
    TAKEN_OVER = "taken over"
    WENT_BACK = "went back"


def record(home: Path, digest: str) -> Path:
    """Return where the trial of a generation is on record, in the folder of its image."""
    return home / f"{digest}.trial"


def read(home: Path, digest: str) -> Trial | None:
    """Return the trial of a generation, or None when there is none on record that can be read."""
    try:
        return msgspec.json.decode(record(home, digest).read_bytes(), type=Trial)
    except (OSError, msgspec.MsgspecError):
        return None


def seen(now: Succession, standing: Standing) -> Succession:
    """Return what follows from how the image stands on disk; nothing changes when it is known already.

    What serves goes on serving: another follows by what its machines do, never by what is on disk alone.
    """
    trial = standing.trial
    if standing.current == now.serving:
        return Succession(serving=now.serving)
    if not now.serving:
        if trial is None:
            return Succession(serving=standing.current)
        return _announced(trial.before, standing)
    if trial is not None and now.trial is not None and now.trial.digest == trial.digest:
        # What it goes back to is another once a pass is put on record late.
        return msgspec.structs.replace(now, trial=msgspec.structs.replace(now.trial, before=trial.before))
    known = trial is None and now.trial is None and now.coming == standing.current
    return now if known else _announced(now.serving, standing)


def _announced(serving: str, standing: Standing) -> Succession:
    reason = standing.trial.reason if standing.trial is not None else ""
    return Succession(serving=serving, coming=standing.current, trial=standing.trial, reason=reason)


def wants_canary(now: Succession, alive: Collection[str], at: float) -> bool:
    """Whether the next machine is to be of what is coming; `alive` are the generations of all there are."""
    return bool(now.coming) and now.coming not in alive and at >= now.retry_at


def outdated(now: Succession, generation: str) -> bool:
    """Whether a machine of this generation that nobody has is to go."""
    return bool(now.serving and generation) and generation not in (now.serving, now.coming)


def came_up(now: Succession, generation: str, *, needed: int) -> tuple[Succession, Verdict]:
    """A machine passed the thaw gate: that is enough where no leases are needed."""
    if generation != now.coming or not generation or (now.trial is not None and needed > 0):
        return now, Verdict.OPEN
    return Succession(serving=generation), Verdict.TAKEN_OVER


def ended_well(now: Succession, generation: str, *, needed: int) -> tuple[Succession, Verdict]:
    """A job had a machine of this generation to its end; after so many it takes over."""
    if generation != now.coming or now.trial is None:
        return now, Verdict.OPEN
    trial = msgspec.structs.replace(now.trial, good=now.trial.good + 1)
    if trial.good >= needed:
        return Succession(serving=generation), Verdict.TAKEN_OVER
    return msgspec.structs.replace(now, trial=trial), Verdict.OPEN


def failed(
    now: Succession, generation: str, reason: str, at: float, *, excused: bool
) -> tuple[Succession, Verdict]:
    """A canary did not come up; `excused` when those of the other generation fail as well."""
    return _failed(now, generation, reason, at, excused=excused, lost_by=())


def lost(
    now: Succession, generation: str, reason: str, at: float, *, by: str, alone: bool
) -> tuple[Succession, Verdict]:
    """A job lost a canary. It may have ended it on purpose, for it is root in there.

    `by` is the job's repository, and empty for strangers' code, which proves nothing. A repository counts
    once, unless it is the only one that uses the image (`alone`): nobody goes back for others.
    """
    again = now.trial is not None and by in now.trial.lost_by and not alone
    counted = (*(now.trial.lost_by if now.trial is not None else ()), by)
    return _failed(now, generation, reason, at, excused=not by or again, lost_by=counted)


def _failed(
    now: Succession, generation: str, reason: str, at: float, *, excused: bool, lost_by: tuple[str, ...]
) -> tuple[Succession, Verdict]:
    if generation != now.coming or not generation:
        return now, Verdict.OPEN
    later = msgspec.structs.replace(now, retry_at=at + RETRY, reason=reason)
    if now.trial is None or excused:
        return later, Verdict.OPEN
    trial = msgspec.structs.replace(
        now.trial, bad=now.trial.bad + 1, reason=reason, lost_by=lost_by or now.trial.lost_by
    )
    if trial.bad >= TOO_MANY:
        return Succession(serving=now.serving, refused=generation, trial=trial), Verdict.WENT_BACK
    return msgspec.structs.replace(later, trial=trial), Verdict.OPEN


def owed(now: Succession, standing: Standing) -> Trial | None:
    """Return the record that the disk should have of a trial, when it has another.

    That what serves has passed comes first: what was built since is to go back to it.
    """
    for overtaken in standing.overtaken:
        if overtaken.digest == now.serving:
            return msgspec.structs.replace(overtaken, ended="passed")
    trial = standing.trial
    if trial is None:
        return None
    if trial.digest == now.serving:
        return msgspec.structs.replace(trial, ended="passed")
    if now.trial is None or now.trial.digest != trial.digest:
        return None
    if trial.digest == now.refused:
        return msgspec.structs.replace(now.trial, ended="failed")
    return now.trial if now.trial != trial else None
