"""Behaviour of runnerd.web.client, against a served control API on a real Unix socket."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio

from runnerd.web import guard, listeners
from runnerd.web.client import Client, Refusal, Unreachable


@pytest.fixture
async def served(tmp_path, nursery):
    """A client, and what the daemon behind it was asked."""
    app = QuartTrio(__name__, static_folder=None)
    asked = []

    @app.route("/v1/<path:path>", methods=["GET", "POST"])
    async def anything(path):
        asked.append((request.method, request.full_path.rstrip("?")))
        if path == "runs/404":
            return {"error": "there is no run 404"}, 404
        if path == "pool":
            return Response("<html>", 200)
        return {"runs": [1, 2]} if path == "runs" else {"path": path}

    path = tmp_path / "control.sock"
    stop = trio.Event()
    await nursery.start(partial(guard.serve, app, [listeners.open_unix(path)], stop=stop))
    yield Client(path), asked
    stop.set()


async def test_every_verb_asks_its_path(served):
    """Arguments become paths and queries; what was not given is left out."""
    client, asked = served

    def all_of_them():
        client.status()
        assert client.runs() == [1, 2]
        client.runs(5, 9, "o/r")
        assert client.run(5) == {"path": "runs/5"}
        client.explain(5)
        client.log(5, 9)
        client.log(5, 9, 100, 30)
        client.cancel(5)
        client.approve(5)
        client.rerun(5)
        client.rerun(5, "a b", "3")
        client.rerun(5, failed=True)
        client.drain()
        client.pause("a disk")
        client.pause()
        client.resume()
        client.machines()
        client.look_at_images()

    await trio.to_thread.run_sync(all_of_them)
    assert asked == [
        ("GET", "/v1/status"),
        ("GET", "/v1/runs?limit=20"),
        ("GET", "/v1/runs?limit=5&before=9&repository=o%2Fr"),
        ("GET", "/v1/runs/5"),
        ("GET", "/v1/runs/5/explain"),
        ("GET", "/v1/runs/5/jobs/9/log?offset=0&wait=0"),
        ("GET", "/v1/runs/5/jobs/9/log?offset=100&wait=30"),
        ("POST", "/v1/runs/5/cancel"),
        ("POST", "/v1/runs/5/approve"),
        ("POST", "/v1/runs/5/rerun"),
        ("POST", "/v1/runs/5/rerun?job=a+b&from=3"),
        ("POST", "/v1/runs/5/rerun?failed=1"),
        ("POST", "/v1/drain"),
        ("POST", "/v1/pause?reason=a+disk"),
        ("POST", "/v1/pause"),
        ("POST", "/v1/resume"),
        ("GET", "/v1/machines"),
        ("POST", "/v1/images/look"),
    ]


async def test_a_refusal_carries_its_sentence(served):
    """The daemon's own words and status reach the caller."""
    with pytest.raises(Refusal, match="there is no run 404") as caught:
        await trio.to_thread.run_sync(served[0].run, 404)
    assert caught.value.status == 404


async def test_an_answer_that_is_no_daemons_is_said(served):
    """Something else on the socket is not taken for an answer."""
    with pytest.raises(Unreachable, match="as a daemon does"):
        await trio.to_thread.run_sync(served[0].pool)


def test_no_daemon_is_said_with_what_to_look_at(tmp_path):
    """The path and the variable are named."""
    with pytest.raises(Unreachable, match=r"control.sock.*RUNNERD_SOCKET"):
        Client(tmp_path / "control.sock").status()


def test_the_client_needs_none_of_the_server():
    """Importing it loads the standard library alone, so that commands start at once."""
    heavy = ["trio", "quart", "hypercorn", "httpx", "msgspec", "structlog"]
    code = f"import sys, runnerd.web.client; assert not set({heavy}) & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
