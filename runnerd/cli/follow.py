"""Follows a run while it happens: the logs of its jobs, side by side, each line with the job's name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from runnerd.cli.output import clean, log_text

POLL = 0.1
"""Seconds between two looks."""

_KINDS = {"error": "31", "warning": "33", "notice": "36", "debug": "2", "command": "34"}
_MARK = re.compile(r"\[step \d+\] (?!\[step )")
_COLOURS = ("36", "33", "35", "32", "34", "31")


def paint(text: str, number: int) -> str:
    """Return the text in the colour of the job with this number."""
    return f"\x1b[{_COLOURS[number % len(_COLOURS)]}m{text}\x1b[0m"


def told(text: str, *, colour: bool) -> str | None:
    """Return a line as people read it: `##[group]` and its siblings become words, or nothing.

    The mark of a step in the background stays in front.
    """
    if (mark := _MARK.match(text)) is not None:
        rest = told(text[mark.end() :], colour=colour)
        return None if rest is None else mark[0] + rest
    if not text.startswith("##["):
        return text
    kind, _, rest = text[3:].partition("]")
    if kind == "endgroup":
        return None
    if kind in ("group", "section"):
        return _weighed(f"▸ {rest}", "1", colour)
    return _weighed(f"{kind}: {rest}", _KINDS[kind], colour) if kind in _KINDS else text


def _weighed(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


class Api(Protocol):
    """What following needs of the daemon; `web.client.Client` has it."""

    def run(self, run: int) -> Any:
        """Return `run` and `jobs`."""
        ...

    def log(self, run: int, job: int, offset: int = 0) -> Any:
        """Return whole lines from an offset on as `text`, the `next` offset, and whether it is the `end`."""
        ...


class Follower:
    """Prints what is new at every `step`; knows how far it has read each job's log.

    `data` gets each line, and the end of each job, as data; nothing is shown then.
    """

    def __init__(
        self,
        api: Api,
        run: int,
        *,
        show: Callable[[str], None],
        colour: bool = False,
        only: int | None = None,
        data: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._api = api
        self._run = run
        self._show = show
        self._colour = colour
        self._only = only
        self._data = data
        self._offsets: dict[int, int] = {}
        self._ended: set[int] = set()

    def step(self) -> bool:
        """Print the lines that came since the last step; returns whether the run ended and all is printed."""
        view = self._api.run(self._run)
        jobs = [job for job in view["jobs"] if self._only in (None, job["id"])]
        width = max((len(clean(job["name"])) for job in jobs), default=0)
        for number, job in enumerate(jobs):
            if job["id"] in self._ended:
                continue
            prefix = self._prefix(clean(job["name"]).ljust(width), number)
            if job["started"] is not None:
                # Read after the phase was seen: what a job wrote before it ended is complete here.
                self._drain(job, prefix)
            if job["phase"] == "done":
                self._finish(job, prefix)
        return view["run"]["phase"] == "done" or self._only in self._ended

    def _drain(self, job: Mapping[str, Any], prefix: str) -> None:
        id = job["id"]
        while True:
            piece = self._api.log(self._run, id, self._offsets.get(id, 0))
            self._offsets[id] = piece["next"]
            for line in piece["text"].split("\n")[:-1]:
                if self._data is not None:
                    time, _, text = line.partition(" ")
                    self._data({"job": id, "name": job["name"], "time": time, "line": text})
                    continue
                text = log_text(line.partition(" ")[2], colour=self._colour)
                if (said := told(text, colour=self._colour)) is not None:
                    self._show(prefix + said)
            if not piece["text"]:
                return

    def _finish(self, job: Mapping[str, Any], prefix: str) -> None:
        self._ended.add(job["id"])
        if self._data is not None:
            self._data({"job": job["id"], **{key: job[key] for key in ("name", "outcome", "reason")}})
            return
        reason = f": {clean(job['reason'])}" if job["reason"] else ""
        self._show(f"{prefix}{_weighed(job['outcome'], '1', self._colour)}{reason}")

    def _prefix(self, name: str, number: int) -> str:
        text = f"{name} │ "
        if self._only is not None:
            return ""
        return paint(text, number) if self._colour else text


def follow(follower: Follower, *, sleep: Callable[[float], None], patience: float | None = None) -> bool:
    """Follow a run to its end; returns False when `patience` seconds of waiting were not enough."""
    waited = 0.0
    while not follower.step():
        if patience is not None and waited >= patience:
            return False
        sleep(POLL)
        waited += POLL
    return True
