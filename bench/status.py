"""From a signed webhook to the first status at the forge, which is a server of ours on the loopback."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.daemon import Daemon, daemon
from bench.flow import HELLO
from bench.results import Figures, spread

WEBHOOKS = 40
PATIENCE = 30.0


class _Statuses(BaseHTTPRequestHandler):
    """Takes statuses and says when each came."""

    protocol_version = "HTTP/1.1"
    came: queue.Queue[tuple[float, str]]

    def do_GET(self) -> None:
        """No commit says anything yet."""
        self._answer(200, {"statuses": []})

    def do_POST(self) -> None:
        """Take a status."""
        at = time.time()
        status = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.came.put((at, status["state"]))
        self._answer(201, status)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def _forge() -> Iterator[tuple[str, queue.Queue[tuple[float, str]]]]:
    came: queue.Queue[tuple[float, str]] = queue.Queue()
    handler = type("Statuses", (_Statuses,), {"came": came})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", came
        finally:
            server.shutdown()
            thread.join()


def _pushes(running: Daemon, count: int) -> list[Path]:
    """Commit so often to the sample, and write down the payload of each push."""
    git = [
        "git",
        "-C",
        str(running.folder / "sample"),
        "-c",
        "user.name=bench",
        "-c",
        "user.email=b@localhost",
    ]
    first = json.loads(running.payload.read_text())
    paths = []
    for number in range(count):
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", f"commit {number}"], check=True)
        sha = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
        path = running.folder / f"push{number}.json"
        path.write_text(json.dumps(first | {"after": sha, "head_commit": first["head_commit"] | {"id": sha}}))
        paths.append(path)
    return paths


def measure() -> Figures:
    """From the webhook's first byte to the arrival of its first status, one pushed commit after another.

    The machines are in memory, because the first status does not wait for one. The pace is one a second, so
    that our own limit of writes (GitHub's 900 points a minute) is not what is measured.
    """
    times = []
    with _forge() as (api, came), daemon(HELLO, fake=True, forge=f'api = "{api}"\ntoken = "t"') as running:
        for number, push in enumerate(_pushes(running, WEBHOOKS + 1)):
            running.payload = push
            started = time.monotonic()
            (sent,) = running.load(1, 1)["sent"]
            first, state = came.get(timeout=PATIENCE)
            while state == "pending":
                _, state = came.get(timeout=PATIENCE)
            if number:  # the first loads what the others have
                times.append((first - sent) * 1000)
            time.sleep(max(0.0, started + 1.2 - time.monotonic()))
    return {"webhook_to_first_status": spread(times)}
