"""Behaviour of runnerd.forge.gitea, against a server that speaks as Gitea does."""

from __future__ import annotations

import json
from functools import partial

import pytest
import trio

from runnerd.forge.gitea import open_gitea
from runnerd.forge.protocol import CheckReport, ForgeDenied
from runnerd.web import guard

REPOSITORY, SHA, MARKER = "octo/hello", "b" * 40, "<!-- runnerd:v1 repository=1 pull=7 -->"


class PlainGitea:
    """Statuses and comments at /api/v1: `token` authorization, `status` for a state, lists without pages."""

    def __init__(self):
        self.statuses, self.comments, self.requests = [], [], []

    async def __call__(self, scope, receive, send):
        body = (await receive()).get("body", b"")
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        method, path = scope["method"], scope["path"]
        self.requests.append((method, path))
        status, answer = 404, {"message": "not found"}
        sent = json.loads(body) if body else {}
        if headers.get("authorization") != "token t0ken":
            status, answer = 401, {"message": "token is required"}
        elif path == f"/api/v1/repos/{REPOSITORY}/commits/{SHA}/status":
            newest = {each["context"]: each for each in self.statuses}
            status, answer = 200, {"state": "", "statuses": list(newest.values()) or None}
        elif (method, path) == ("POST", f"/api/v1/repos/{REPOSITORY}/statuses/{SHA}"):
            kept = {"status": sent["state"], "context": sent["context"], "description": sent["description"],
                    "target_url": ""}  # fmt: skip
            self.statuses.append(kept)
            status, answer = 201, kept
        elif path == f"/api/v1/repos/{REPOSITORY}/issues/7/comments":
            if method == "POST":
                self.comments.append({"id": len(self.comments) + 1, "user": {"login": "ci"}, **sent})
                status, answer = 201, self.comments[-1]
            else:
                status, answer = 200, self.comments
        elif method == "PATCH" and path.startswith(f"/api/v1/repos/{REPOSITORY}/issues/comments/"):
            self.comments[int(path.rpartition("/")[2]) - 1] |= sent
            status, answer = 200, self.comments[int(path.rpartition("/")[2]) - 1]
        elif path == "/api/v1/user":
            status, answer = 200, {"id": 1, "login": "ci"}
        data = json.dumps(answer).encode()
        pairs = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": data})


@pytest.fixture
async def server(nursery):
    server, stop = PlainGitea(), trio.Event()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await nursery.start(partial(guard.serve, server, listeners, stop=stop))
    server.address = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/api/v1"
    yield server
    stop.set()


async def test_statuses_are_set_once(server):
    """The same state twice is one write, also for a client that has just been started."""
    for _ in range(2):
        async with open_gitea(server.address, "t0ken") as forge:
            for state in ("pending", "success", "success"):
                if state == "success" or not server.statuses:
                    await forge.set_status(REPOSITORY, SHA, "runnerd / CI / build", state, "text", "")
    assert [each["status"] for each in server.statuses] == ["pending", "success"]


async def test_one_comment_is_edited_however_many_there_are(server):
    """Gitea gives all comments at once: a hundred of others do not make us ask for pages without end."""
    server.comments = [{"id": n + 1, "user": {"login": "me"}, "body": f"talk {n}"} for n in range(120)]
    for text in ("one", "two"):
        async with open_gitea(server.address, "t0ken") as forge:
            await forge.upsert_comment(REPOSITORY, 7, MARKER, f"{MARKER}\n{text}\n")
    assert [each["body"] for each in server.comments if MARKER in each["body"]] == [f"{MARKER}\ntwo\n"]
    assert len([path for method, path in server.requests if (method, path[-9:]) == ("GET", "/comments")]) == 2


async def test_what_it_lacks_it_says(server):
    """No check runs, no tokens for jobs; git logs in with the token."""
    async with open_gitea(server.address, "t0ken") as forge:
        assert not await forge.has_checks(REPOSITORY)
        assert await forge.job_token(REPOSITORY, {"contents": "read"}) is None
        assert (await forge.credential(REPOSITORY))[1] == "t0ken"
        report = CheckReport(name="n", external_id="1/1/x", status="queued", title="t", summary="s")
        with pytest.raises(ForgeDenied, match="no check runs"):
            await forge.set_check(REPOSITORY, SHA, report)
        assert (await forge.ask("GET", "/user")).json()["login"] == "ci"


async def test_a_wrong_token_is_denied(server):
    """Its 401 is a refusal like GitHub's."""
    async with open_gitea(server.address, "wrong") as forge:
        with pytest.raises(ForgeDenied, match="does not know"):
            await forge.set_status(REPOSITORY, SHA, "c", "success", "d", "")
