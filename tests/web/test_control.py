"""Behaviour of runnerd.web.control: paths, numbers and refusals; what is done stands behind `ControlApi`."""

from __future__ import annotations

import pytest

from runnerd.model import Actor, Event, JobRecord, Repository, RunRecord
from runnerd.web import control
from runnerd.web.control import LogView, Refused, RunView, Unavailable

EVENT = Event(
    delivery="d", name="push", repository=Repository(id=1, full_name="o/r"), sender=Actor(id=1, login="o")
)
RUN = RunRecord(
    id=5, delivery="d", repository="o/r", workflow_path="p", workflow_name="CI", title="t", source="s",
    event=EVENT, number=1,
)  # fmt: skip
JOB = JobRecord(id=9, run=5, key="build", name="build")


class Recorded:
    """An API that remembers what it was asked, knows one run, and fails on demand."""

    def __init__(self):
        self.asked = []
        self.error = None

    def _ask(self, *what):
        self.asked.append(what)
        if self.error:
            raise self.error

    async def status(self):
        self._ask("status")
        return {"version": "1"}

    async def runs(self, limit, before, repository):
        self._ask("runs", limit, before, repository)
        return [RUN]

    async def run(self, run):
        self._ask("run", run)
        return RunView(run=RUN, jobs=(JOB,))

    async def explain(self, run):
        self._ask("explain", run)
        return {"jobs": []}

    async def log(self, run, job, offset, wait):
        self._ask("log", run, job, offset, wait)
        return LogView(text="line\n", next=5, end=False)

    async def cancel(self, run):
        self._ask("cancel", run)
        return {"run": run}

    async def approve(self, run):
        self._ask("approve", run)
        return {"run": run}

    async def rerun(self, run, job, step, *, failed):
        self._ask("rerun", run, job, step, failed)
        return {"run": run + 1}

    async def drain(self):
        self._ask("drain")
        return {"message": "draining"}

    async def pause(self, reason):
        self._ask("pause", reason)
        return {"message": "paused"}

    async def look_at_images(self):
        self._ask("look_at_images")
        return {"message": "looking"}

    async def resume(self):
        self._ask("resume")
        return {"message": "resumed"}

    async def pool(self):
        self._ask("pool")
        return {"machines": []}

    async def machines(self, limit):
        self._ask("machines", limit)
        return [{"id": "m1"}]


@pytest.fixture
def api():
    return Recorded()


@pytest.fixture
def client(api):
    return control.app(api, unavailable=(TimeoutError,)).test_client()


@pytest.mark.parametrize(
    ("method", "path", "asked", "status"),
    [
        ("GET", "/v1/status", ("status",), 200),
        ("GET", "/v1/runs", ("runs", 20, None, None), 200),
        ("GET", "/v1/runs?limit=5&before=9&repository=o/r", ("runs", 5, 9, "o/r"), 200),
        ("GET", "/v1/runs?limit=999999", ("runs", control.PAGE, None, None), 200),
        ("GET", "/v1/runs/5", ("run", 5), 200),
        ("GET", "/v1/runs/5/jobs/9/log", ("log", 5, 9, 0, 0.0), 200),
        ("GET", "/v1/runs/5/jobs/9/log?offset=7&wait=2", ("log", 5, 9, 7, 2.0), 200),
        ("GET", "/v1/runs/5/jobs/9/log?wait=99999", ("log", 5, 9, 0, control.WAIT_LIMIT), 200),
        ("GET", "/v1/pool", ("pool",), 200),
        ("GET", "/v1/machines", ("machines", control.PAGE), 200),
        ("GET", "/v1/machines?limit=7", ("machines", 7), 200),
        ("POST", "/v1/runs/5/cancel", ("cancel", 5), 202),
        ("POST", "/v1/runs/5/approve", ("approve", 5), 202),
        ("POST", "/v1/runs/5/rerun", ("rerun", 5, "", "", False), 202),
        ("POST", "/v1/runs/5/rerun?job=a%20b&from=3", ("rerun", 5, "a b", "3", False), 202),
        ("POST", "/v1/runs/5/rerun?failed=1", ("rerun", 5, "", "", True), 202),
        ("POST", "/v1/drain", ("drain",), 202),
        ("POST", "/v1/pause", ("pause", ""), 202),
        ("POST", "/v1/pause?reason=a%20disk", ("pause", "a disk"), 202),
        ("POST", "/v1/resume", ("resume",), 202),
        ("POST", "/v1/images/look", ("look_at_images",), 202),
    ],
)
async def test_each_path_asks_for_its_own(api, client, method, path, asked, status):
    """Numbers arrive as numbers within their bounds, and the answer is JSON."""
    answer = await client.open(path, method=method)
    assert (answer.status_code, api.asked) == (status, [asked])
    assert await answer.get_json()


async def test_a_run_is_shown_whole(client):
    """Records keep their fields, so that a command may read them back."""
    shown = await (await client.get("/v1/runs/5")).get_json()
    assert (shown["run"]["id"], shown["run"]["event"]["name"], shown["jobs"][0]["key"]) == (
        5,
        "push",
        "build",
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LookupError("there is no run 5"), 404),
        (Refused("run 5 has ended already"), 409),
        (Unavailable("the pool does not answer"), 503),
        (TimeoutError("the ledger does not answer"), 503),
    ],
)
async def test_an_error_has_its_status_and_sentence(api, client, error, status):
    """Unknown, refused and not now are told apart."""
    api.error = error
    answer = await client.get("/v1/runs/5")
    assert (answer.status_code, await answer.get_json()) == (status, {"error": str(error)})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/runs?limit=-1", 400),
        ("GET", "/v1/runs?limit=many", 400),
        ("GET", "/v1/runs?before=9999999999999999999", 400),
        ("GET", "/v1/runs/5/jobs/9/log?wait=nan", 400),
        ("GET", "/v1/runs/99999999999999999999", 404),
        ("GET", "/v1/runs/x", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/drain", 405),
        ("POST", f"/v1/pause?reason={'x' * 1001}", 400),
        ("POST", "/v1/runs/5/rerun?from=3", 400),
        ("POST", "/v1/runs/5/rerun?job=a&failed=1", 400),
        ("POST", "/v1/status", 405),
    ],
)
async def test_a_wrong_request_asks_for_nothing(api, client, method, path, status):
    """It is refused in JSON before anything is done."""
    answer = await client.open(path, method=method)
    assert (answer.status_code, api.asked) == (status, [])
    assert (await answer.get_json())["error"]


async def test_a_run_is_explained(client, api):
    """The explanation has an address of its own below the run."""
    answer = await client.get("/v1/runs/5/explain")
    assert (answer.status_code, await answer.get_json()) == (200, {"jobs": []})
    assert api.asked == [("explain", 5)]


async def test_a_shell_is_for_who_speaks_its_protocol(client, api):
    """Asked for as a page it is refused, with what it wants; `test_terminal_client` has the rest."""
    answer = await client.get("/v1/runs/5/jobs/9/shell")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "runnerd-terminal/1")
    assert api.asked == []
