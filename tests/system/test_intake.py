"""The public door under abuse while a real run is in flight."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from runnerd.forge.signature import sign

from .conftest import PROCESSES, SECRET, Daemon, Sample, push, wait_for

pytestmark = pytest.mark.system

HOLD = """\
on: push
jobs:
  held:
    runs-on: ubuntu-latest
    steps:
      - run: |
          touch %(gate)s-started
          until test -e %(gate)s; do sleep 0.05; done
"""

BODY = push("1" * 40)
GOOD = sign(BODY, SECRET)
TOO_LARGE = 26_214_401

UNPROVED: dict[str, tuple[int, dict[str, str]]] = {
    "no signature": (401, {"X-Hub-Signature-256": ""}),
    "an empty signature": (401, {"X-Hub-Signature-256": "sha256="}),
    "the old kind of signature": (401, {"X-Hub-Signature-256": "", "X-Hub-Signature": "sha1=" + "0" * 40}),
    "another's signature": (403, {"X-Hub-Signature-256": sign(BODY, "another secret")}),
    "a signature of another body": (403, {"X-Hub-Signature-256": sign(b"{}", SECRET)}),
    "a signature cut short": (403, {"X-Hub-Signature-256": GOOD[:-1]}),
    "a signature that goes on": (403, {"X-Hub-Signature-256": GOOD + "0"}),
    "a signature that is no hex": (403, {"X-Hub-Signature-256": "sha256=" + "z" * 64}),
    "a signature that is no ASCII": (403, {"X-Hub-Signature-256": "sha256=" + "é" * 64}),
    "a form": (415, {"Content-Type": "application/x-www-form-urlencoded"}),
    "a compressed body": (415, {"Content-Encoding": "gzip"}),
}
"""What a sender may get wrong about the proof -> the status, and the headers that differ."""

PROVED: dict[str, tuple[int, str, bytes]] = {
    "no JSON": (400, "push", b"hello"),
    "no object": (400, "push", b"[]"),
    "not UTF-8": (400, "push", b'{"ref": "\xff"}'),
    "nothing in it": (400, "push", b"{}"),
    "nesting": (400, "push", b'{"ref":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "wrong types": (400, "push", json.dumps({**json.loads(BODY), "repository": 7}).encode()),
    "a name that climbs": (400, "push", BODY.replace(b"local/repo", b"../../etc")),
    "another event's body": (400, "pull_request", BODY),
}
"""What a sender with the secret may get wrong -> the status, event and body."""

MALFORMED: dict[str, bytes] = {
    "noise": bytes(range(256)) * 8,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 505,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 50,
    "an unknown version": b"POST /webhook HTTP/9.9\r\nHost: x\r\n\r\n",
    "an endless header": b"POST /webhook HTTP/1.1\r\nX: " + b"x" * 1_000_000,
    "a length that is none": b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length and chunks": (
        b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    ),
    "a bad chunk": (
        b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n"
    ),
    "a null byte": b"POST /webhook\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no line at all": b"\r\n" * 5000,
}
"""What is no HTTP, or no good HTTP."""

REFUSED = (0, *range(400, 500), 505)
"""How that may be answered: not at all, as the sender's fault, or as a version nobody speaks here."""


def head(length: int | str, **more: str) -> bytes:
    """A request for a signed push without its body."""
    headers = {
        "Host": "x",
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-Hub-Signature-256": GOOD,
        **({"Content-Length": str(length)} if length != "chunked" else {"Transfer-Encoding": "chunked"}),
        **more,
    }
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return ("POST /webhook HTTP/1.1\r\n" + "".join(lines) + "\r\n").encode()


def connect(daemon: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.port), 60)


def exchange(daemon: Daemon, data: bytes, *, waits: bool = False) -> bytes:
    """Send bytes and return what comes back until the daemon closes; `waits` keeps our side open."""
    with connect(daemon) as stream:
        received = b""
        try:
            stream.sendall(data)
            if not waits:
                stream.shutdown(socket.SHUT_WR)
            while piece := stream.recv(65536):
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
        return received


def status_of(answer: bytes) -> int:
    """The status of the first answer; 0 where there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


@contextmanager
def a_run_in_flight(daemon: Daemon, sample: Sample, gate: Path) -> Iterator[str]:
    """A job that runs as long as the block does, and must succeed after it; gives the commit."""
    sha = sample.workflow(HOLD % {"gate": gate})
    delivery = daemon.deliver(sha)
    wait_for(gate.with_name(f"{gate.name}-started").exists, "the job runs")
    yield sha
    gate.touch()
    assert daemon.wait_done(delivery)["conclusion"] == "success"
    assert daemon.metric('runnerd_actor_restarts_total{actor="receiver"}') == 0


def stored(daemon: Daemon) -> int:
    """How many deliveries the ledger has."""
    return daemon.rows("SELECT count(*) AS n FROM deliveries")[0]["n"]


def test_ready_means_that_the_webhook_answers(make_daemon: Callable[..., Daemon]) -> None:
    """The first time `/readyz` says yes, a webhook can be posted."""
    daemon = make_daemon(PROCESSES).start()
    for _ in range(3):
        wait_for(lambda: daemon.health("/readyz")[0] == 200, "ready", pause=0.0)
        connect(daemon).close()
        daemon.kill()
        daemon.start()


def test_what_is_not_right_is_refused_and_not_stored(daemon: Daemon, sample: Sample, tmp_path: Path) -> None:
    """Each wrong proof, wrong body and broken request has its answer, and leaves nothing behind."""
    with a_run_in_flight(daemon, sample, tmp_path / "gate") as sha:
        before = stored(daemon)
        for name, (expected, headers) in UNPROVED.items():
            status, answer = daemon.post(BODY, headers=headers)
            assert (status, list(answer)) == (expected, ["error"]), name
        for name, (expected, event, body) in PROVED.items():
            status, answer = daemon.post(body, event=event)
            assert (status, list(answer)) == (expected, ["error"]), name
        for name, data in MALFORMED.items():
            answer = exchange(daemon, data)
            assert status_of(answer) in REFUSED, name
            assert answer.count(b"HTTP/1.1 ") <= 1, f"{name}: a second request was found behind the first"
        twice = head(len(BODY), **{"x-hub-signature-256": GOOD}) + BODY
        assert status_of(exchange(daemon, twice)) == 400
        assert stored(daemon) == before
        assert daemon.post(push(sha))[0] == 202


def test_sizes_and_times_are_bounded(daemon: Daemon, sample: Sample, tmp_path: Path) -> None:
    """A body that is too large, too slow, cut off or never sent costs its own connection."""
    with a_run_in_flight(daemon, sample, tmp_path / "gate"), ExitStack() as stack:
        before = stored(daemon)
        slow = stack.enter_context(connect(daemon))
        slow.sendall(head(len(BODY)) + BODY[:10])
        started = time.monotonic()

        assert status_of(exchange(daemon, head(TOO_LARGE), waits=True)) == 413
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        assert status_of(exchange(daemon, head("chunked") + piece * 26)) in (0, 413)
        assert status_of(exchange(daemon, head(len(BODY)) + BODY[:-1])) in REFUSED
        for cut in (0, 10, len(BODY) - 1):
            with connect(daemon) as reset:
                reset.sendall(head(len(BODY)) + BODY[:cut])
                reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        # More than may be open at once: those after them wait until idle ones are closed.
        for _ in range(300):
            stack.enter_context(connect(daemon))
        assert daemon.post(b"{}")[0] == 400
        assert status_of(slow.recv(4096)) == 408
        assert time.monotonic() - started < 120
        assert stored(daemon) == before
        assert daemon.health("/livez")[0] == 200


def test_a_delivery_counts_once(daemon: Daemon, sample: Sample, tmp_path: Path) -> None:
    """Sent again, sent twenty times at once, sent with another body: one delivery and one run."""
    with a_run_in_flight(daemon, sample, tmp_path / "gate") as sha:
        answers: Counter[int] = Counter()

        def send() -> None:
            answers[daemon.post(push(sha), delivery="the-same")[0]] += 1

        threads = [threading.Thread(target=send) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {202: 1, 200: 19}
        status, answer = daemon.post(push(sha, "refs/heads/other"), delivery="the-same")
        assert (status, answer["status"]) == (200, "duplicate")
    daemon.wait_settled()
    assert [run["outcome"] for run in daemon.runs_of("the-same")] == ["success"]


def test_what_asks_for_nothing_is_acknowledged(daemon: Daemon, sample: Sample, tmp_path: Path) -> None:
    """A ping, an event nobody knows and the end of a branch are kept with their reason and start nothing."""
    with a_run_in_flight(daemon, sample, tmp_path / "gate"):
        ping = json.dumps({"zen": "Speak like a human.", "hook_id": 1, "hook": {"id": 1}}).encode()
        gone = json.loads(push("0" * 40)) | {"deleted": True, "head_commit": None, "commits": []}
        for event, body in (("ping", ping), ("workflow_job", BODY), ("push", json.dumps(gone).encode())):
            status, answer = daemon.post(body, event=event, delivery=f"nothing-{event}")
            assert (status, answer["status"]) == (200, "acknowledged"), answer
    rows = daemon.rows("SELECT * FROM deliveries WHERE id LIKE 'nothing-%'")
    assert {row["state"] for row in rows} == {"ignored"}
    assert len(rows) == 3
    assert all(row["reason"] for row in rows)


def test_the_manual_test_of_the_original(daemon: Daemon, sample: Sample, tmp_path: Path) -> None:
    """A signed body without event and delivery header: the event is inferred, the id is its hash."""
    with a_run_in_flight(daemon, sample, tmp_path / "gate") as sha:
        body = push(sha)
        status, answer = daemon.post(body, event=None)
        assert (status, answer) == (
            202,
            {"message": "Push webhook received for refs/heads/main", "status": "success"},
        )
        assert daemon.post(body, event=None)[0] == 200
    daemon.wait_settled()
    (delivery,) = daemon.rows("SELECT id FROM deliveries WHERE id LIKE 'body-%'")
    assert [run["outcome"] for run in daemon.runs_of(delivery["id"])] == ["success"]
