"""The control API: what a person asks of a running daemon, as HTTP and JSON under `/v1/`.

It trusts whoever may open its socket. Every refusal is `{"error": SENTENCE}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import msgspec
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import BadRequest

from runnerd.model import JobRecord, RunRecord

from .connection import SWITCH, Switch
from .errors import answer_in_json, json_error
from .frames import LIMIT, PROTOCOL
from .terminal import Screen, Talk, converse

WAIT_LIMIT = 30.0
"""Seconds that a request for more of a log may wait for it."""
REASON = 1000
"""Characters that the reason of a pause may have."""
PAGE = 1000
"""Runs that one answer may hold."""
STEP = 1000
"""Characters that a step's name may have."""
_WINDOW = {"rows": 24, "columns": 80}
_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


class Refused(Exception):
    """The daemon will not do this now; the sentence says why."""


class Unavailable(Exception):
    """The daemon cannot do this now, but may later; the sentence says why."""


class KeptView(msgspec.Struct, frozen=True, kw_only=True):
    """A job's machine that is kept as it was before the step of this number and name; see `machines.kept`."""

    job: int
    step: int
    name: str
    at: float
    bytes: int
    encrypted: bool


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run with its jobs, and why each workflow file of its delivery was or was not started."""

    run: RunRecord
    jobs: tuple[JobRecord, ...]
    notes: tuple[Any, ...] = ()
    snapshots: tuple[KeptView, ...] = ()
    """The machines that are kept of its jobs, by job and step."""
    not_kept: Mapping[int, str] = {}
    """Why none is kept from before the step that failed, where that is known, by job."""


class LogView(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a log: whole lines, where to go on, and whether there will be no more."""

    text: str
    next: int
    end: bool


class ControlApi(Protocol):
    """What the daemon offers. Unknown ids raise LookupError; `Refused` and `Unavailable` as they say."""

    async def status(self) -> Any:
        """The daemon at a glance."""
        ...

    async def runs(self, limit: int, before: int | None, repository: str | None) -> Sequence[RunRecord]:
        """Runs, newest first, with ids below `before`."""
        ...

    async def run(self, run: int) -> RunView:
        """One run."""
        ...

    async def explain(self, run: int) -> Any:
        """Why each workflow and job of a run ran, was skipped or waits."""
        ...

    async def log(self, run: int, job: int, offset: int, wait: float) -> LogView:
        """A job's log from a byte offset; waits up to `wait` seconds for something new."""
        ...

    async def cancel(self, run: int) -> Any:
        """End a run."""
        ...

    async def approve(self, run: int) -> Any:
        """Let a run start that waits for approval."""
        ...

    async def rerun(self, run: int, job: str, step: str, *, failed: bool) -> Any:
        """Run again what has ended, whole, or one job of it (from a step), or those that failed.

        Names the new run.
        """
        ...

    async def drain(self) -> Any:
        """Take nothing new, finish what runs, end."""
        ...

    async def pause(self, reason: str) -> Any:
        """Start no job until `resume`; the operator's reason may be empty."""
        ...

    async def resume(self) -> Any:
        """Start jobs again."""
        ...

    async def look_at_images(self) -> Any:
        """Take up what was built since the last look."""
        ...

    async def pool(self) -> Any:
        """The machines."""
        ...

    async def machines(self, limit: int) -> Any:
        """The machines of the last day, those that are gone as well, the newest first."""
        ...

    async def shell(self, run: int, job: int, at: str | None, screen: Screen) -> Talk:
        """What opens a terminal in a copy of a job's machine, as it was before the step `at`."""
        ...


def app(api: ControlApi, *, unavailable: Sequence[type[Exception]] = ()) -> QuartTrio:
    """Build the application over what the daemon offers; `unavailable` errors of it are 503 as well."""
    quart = QuartTrio(__name__, static_folder=None)
    answer_in_json(quart)
    quart.config["MAX_CONTENT_LENGTH"] = 1 << 20

    async def unknown(error: LookupError) -> Response:
        return json_error(404, str(error.args[0]) if error.args else "there is no such thing")

    async def refused(error: Refused) -> Response:
        return json_error(409, str(error))

    async def not_now(error: Exception) -> Response:
        return json_error(503, str(error))

    quart.register_error_handler(LookupError, unknown)
    quart.register_error_handler(Refused, refused)
    kinds: tuple[type[Exception], ...] = (Unavailable, *unavailable)
    for kind in kinds:
        quart.register_error_handler(kind, not_now)

    @quart.get("/v1/status")
    async def status() -> Response:
        return _json(await api.status())

    @quart.get("/v1/runs")
    async def runs() -> Response:
        limit = min(_number("limit", 20), PAGE)
        before = _number("before", 0) or None
        return _json({"runs": await api.runs(limit, before, request.args.get("repository"))})

    @quart.get("/v1/runs/<int:run>")
    async def run(run: int) -> Response:
        return _json(await api.run(_id(run)))

    @quart.get("/v1/runs/<int:run>/explain")
    async def explain(run: int) -> Response:
        return _json(await api.explain(_id(run)))

    @quart.get("/v1/runs/<int:run>/jobs/<int:job>/log")
    async def log(run: int, job: int) -> Response:
        wait = min(float(_number("wait", 0)), WAIT_LIMIT)
        return _json(await api.log(_id(run), _id(job), _number("offset", 0), wait))

    @quart.get("/v1/pool")
    async def pool() -> Response:
        return _json(await api.pool())

    @quart.get("/v1/machines")
    async def machines() -> Response:
        return _json(await api.machines(min(_number("limit", PAGE), PAGE)))

    @quart.get("/v1/runs/<int:run>/jobs/<int:job>/shell")
    async def shell(run: int, job: int) -> Response:
        """Answers with 101 and goes on in frames; see `frames`."""
        extensions = cast(dict[str, Any], request.scope).get("extensions") or {}
        switch: Switch | None = extensions.get(SWITCH)
        if switch is None or switch.protocol != PROTOCOL:
            refusal = json_error(426, f"a terminal speaks {PROTOCOL} with this daemon: use its own command")
            refusal.headers["upgrade"] = PROTOCOL
            return refusal
        at = request.args.get("at")
        if at is not None and len(at) > STEP:
            raise BadRequest(f"a step is named by at most {STEP} characters")
        talk = await api.shell(_id(run), _id(job), at, _screen())
        switch.accept(partial(converse, talk=talk))
        return Response(b"", 101)

    @quart.post("/v1/runs/<int:run>/cancel")
    async def cancel(run: int) -> Response:
        return _json(await api.cancel(_id(run)), 202)

    @quart.post("/v1/runs/<int:run>/approve")
    async def approve(run: int) -> Response:
        return _json(await api.approve(_id(run)), 202)

    @quart.post("/v1/runs/<int:run>/rerun")
    async def rerun(run: int) -> Response:
        job, step = request.args.get("job", ""), request.args.get("from", "")
        failed = bool(_number("failed", 0))
        if (step and not job) or (job and failed):
            raise BadRequest("`from` goes with a `job`, and `failed` without one")
        return _json(await api.rerun(_id(run), job, step, failed=failed), 202)

    @quart.post("/v1/drain")
    async def drain() -> Response:
        return _json(await api.drain(), 202)

    @quart.post("/v1/pause")
    async def pause() -> Response:
        reason = request.args.get("reason", "")
        if len(reason) > REASON:
            raise BadRequest(f"a reason has at most {REASON} characters")
        return _json(await api.pause(reason), 202)

    @quart.post("/v1/resume")
    async def resume() -> Response:
        return _json(await api.resume(), 202)

    @quart.post("/v1/images/look")
    async def look_at_images() -> Response:
        return _json(await api.look_at_images(), 202)

    return quart


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, content_type="application/json")


def _screen() -> Screen:
    """Read what the person sees with from the query."""
    term = request.args.get("term", "dumb")
    if not _TERM.fullmatch(term):
        raise BadRequest("term is the name of a kind of terminal")
    rows, columns = (min(max(_number(name, default), 1), LIMIT) for name, default in _WINDOW.items())
    return Screen(rows=rows, columns=columns, term=term, plain=bool(_number("plain", 0)))


def _id(number: int) -> int:
    """Accept what can be an id in a database; anything longer names nothing."""
    if number >= 2**63:
        raise LookupError("there is no such id")
    return number


def _number(name: str, default: int) -> int:
    """Read a whole number from the query."""
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest(f"{name} is a whole number from 0")
    return int(text)
