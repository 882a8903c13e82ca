"""`runnerd send`: a signed delivery as GitHub posts it, and what its answer means."""

import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from runnerd.forge import events
from runnerd.forge.signature import verify
from runnerd.model import Event

SECRET = "it is a secret"


class Remembering(http.server.BaseHTTPRequestHandler):
    """Answers every POST with the status and body it was told, and remembers the request."""

    status = 202
    answer = b'{"message": "Push webhook received", "status": "success"}'
    requests: ClassVar[list[tuple[Any, bytes]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).requests.append((self.headers, body))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Remembering]]:
    class Handler(Remembering):
        requests: ClassVar = []

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("PORT", str(listening.server_port))
        monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", SECRET)
        try:
            yield Handler
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture
def checkout(invoke) -> Path:
    """A repository in the current folder with one commit on the branch `main`."""
    for arguments in (
        ("init", "-q", "-b", "main"),
        ("remote", "add", "origin", "git@github.com:octo/cat.git"),
        ("-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "First\n\nbody"),
    ):
        subprocess.run(["git", *arguments], check=True)
    return Path.cwd()


def test_push_of_a_checkout(invoke, server: type[Remembering], checkout: Path) -> None:
    """Without a payload the current commit is announced, signed, in a shape the daemon's decoder reads."""
    result = invoke("send", "push")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("202 ")
    ((headers, body),) = server.requests
    verify(body, headers["X-Hub-Signature-256"], [SECRET])
    assert headers["X-GitHub-Event"] == "push"
    assert headers["Content-Type"] == "application/json"
    event = events.decode("push", headers["X-GitHub-Delivery"], body)
    assert isinstance(event, Event)
    sha = subprocess.run(
        ["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert (event.repository.full_name, event.ref, event.sha) == ("octo/cat", "refs/heads/main", sha)


def test_overrides(invoke, server: type[Remembering], checkout: Path) -> None:
    """Repository, ref, commit and delivery can be said instead."""
    sha = "a" * 40
    result = invoke(
        *(
            "send",
            "push",
            "--repository",
            "x/y",
            "--ref",
            "dev",
            "--sha",
            sha,
            "--delivery",
            "again",
            "--json",
        )
    )
    assert json.loads(result.stdout)["delivery"] == "again"
    ((headers, body),) = server.requests
    payload = json.loads(body)
    assert headers["X-GitHub-Delivery"] == "again"
    assert (payload["repository"]["full_name"], payload["ref"], payload["after"]) == (
        "x/y",
        "refs/heads/dev",
        sha,
    )


def test_dispatch(invoke, server: type[Remembering], checkout: Path) -> None:
    """workflow_dispatch names its file and its inputs; without a file nothing is sent."""
    assert invoke("send", "workflow_dispatch").exit_code == 2
    result = invoke("send", "workflow_dispatch", "-W", "ci.yml", "-i", "a=1")
    assert result.exit_code == 0, result.output
    ((_, body),) = server.requests
    event = events.decode("workflow_dispatch", "d", body)
    assert isinstance(event, Event)
    assert (event.workflow, event.inputs) == (".github/workflows/ci.yml", {"a": "1"})


def test_payload_file(invoke, server: type[Remembering]) -> None:
    """A payload file is sent byte for byte, whatever it holds."""
    Path("p.json").write_bytes(b'{"odd" :  1}\n')
    assert invoke("send", "anything", "--payload", "p.json").exit_code == 0
    assert server.requests[0][1] == b'{"odd" :  1}\n'


def test_refusal(invoke, server: type[Remembering]) -> None:
    """An answer that refuses exits 1 and is shown, JSON or not, without what a terminal would act on."""
    Path("p.json").write_text("{}")
    server.status, server.answer = 403, b"no\x1b[2J!"
    result = invoke("send", "push", "--payload", "p.json")
    assert result.exit_code == 1
    assert result.stdout.startswith("403 no!\n")


def test_nobody_answers(invoke, server: type[Remembering]) -> None:
    """Where nobody listens the exit status is 3."""
    Path("p.json").write_text("{}")
    result = invoke("send", "push", "--payload", "p.json", "--url", "http://127.0.0.1:1/webhook")
    assert result.exit_code == 3
    assert "runnerd serve" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("send", "push"), "no checkout with a commit"),
        (("send", "deployment"), "no payload can be made"),
        (("send", "push", "--payload", "absent"), "cannot be read"),
        (("send", "push", "--payload", "p.json", "--url", "ftp://x"), "is not an http"),
        (("send", "push", "--payload", "p.json", "--url", "http://x:99999/"), "is no address: Port out"),
        (("send", "push", "--payload", "p.json", "--url", "http://[x/"), "is no address: Invalid IPv6"),
    ],
)
def test_usage(invoke, server: type[Remembering], arguments: tuple[str, ...], message: str) -> None:
    """What cannot be sent says why, and the exit status is 2."""
    Path("p.json").write_text("{}")
    result = invoke(*arguments)
    assert (result.exit_code, message in result.stderr) == (2, True)
    assert server.requests == []


def test_without_a_secret(invoke) -> None:
    """Nothing is sent unsigned."""
    result = invoke("send", "push")
    assert result.exit_code == 2
    assert "cannot sign" in result.stderr
