"""A real daemon in a process of its own, with a sample repository: for what goes through the webhook."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runnerd.cli import checkout

ROOT = Path(__file__).parent.parent
STATE = ROOT / ".state"
SECRET = "a secret for benchmarks"
NAME = "bench/sample"


def ensure_image() -> None:
    """Have the image that machines boot from in measurements, built at most once."""
    from runnerd.cli.image import ensure
    from runnerd.config import load

    config = load(None, environ={"STATE_DIRECTORY": str(STATE), "HOME": str(ROOT)})
    ensure(config, "default", preset="minimal", progress=lambda sentence: print(sentence, file=sys.stderr))


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Daemon:
    """A running daemon."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], port: int, payload: Path) -> None:
        self.folder = folder
        self.process = process
        self.port = port
        self.payload = payload
        self.state = folder / "state"

    def load(self, connections: int, count: int) -> dict[str, Any]:
        """Post so many signed pushes from another process; see `bench.load`."""
        command = [sys.executable, "-m", "bench.load", str(self.port), str(connections), str(count)]
        answer = subprocess.run(
            [*command, SECRET, str(self.payload)], cwd=ROOT, check=True, capture_output=True, text=True
        )
        return dict(json.loads(answer.stdout))

    def reports(self) -> int:
        """How many runs have their terminal report, as the ledger says."""
        with contextlib.closing(sqlite3.connect(f"file:{self.state}/ledger.db?mode=ro", uri=True)) as ledger:
            sent = "kind = 'run' AND state = 'completed' AND sent IS NOT NULL"
            (count,) = ledger.execute(f"SELECT count(*) FROM outbox WHERE {sent}").fetchone()
        return int(count)

    def resident(self) -> float:
        """The daemon's resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


@contextmanager
def daemon(
    workflow: str,
    *,
    fake: bool = False,
    machines: str = "",
    pool: str = "",
    forge: str = "",
    snapshots: str = "",
    starts: int = 1,
) -> Iterator[Daemon]:
    """Start one with this workflow in its repository, and stop it at the end.

    `machines`, `pool`, `forge` and `snapshots` are lines of those sections of config.toml. Images and
    templates are shared between runs; the ledger lies on the disk of the checkout. It is the `starts`-th
    start that is used: the first one makes the ledger, and loads for it what no later one needs.
    """
    STATE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=STATE) as name:
        folder = Path(name)
        payload = _sample(folder, workflow)
        port, watch = free_port(), free_port()
        (folder / "config.toml").write_text(
            f'[server]\nport = {port}\nmetrics = "127.0.0.1:{watch}"\n[webhook]\nsecret = "{SECRET}"\n'
            f'[repositories."{NAME}"]\nremote = "{folder / "sample"}"\n'
            f"[machines]\nvcpus = 1\nmemory = 512\ndisk = 1024\n{machines}\n[pool]\n{pool}\n"
            f"[forge]\n{forge}\n[snapshots]\n{snapshots}\n"
        )
        state = folder / "state"
        state.mkdir()
        for shared in ("images", "snapshots"):
            (STATE / shared).mkdir(exist_ok=True)
            (state / shared).symlink_to(STATE / shared)
        environ = {**os.environ, "STATE_DIRECTORY": str(state), "RUNTIME_DIRECTORY": str(folder / "run")}
        environ |= {"RUNNERD_LOG": "warning"}
        module = ["bench.fake_daemon"] if fake else ["runnerd", "serve", "--config"]
        command = [sys.executable, "-m", *module, str(folder / "config.toml")]
        for _ in range(starts - 1):
            with _started(command, environ, folder / "log", watch):
                pass
        with _started(command, environ, folder / "log", watch) as process:
            yield Daemon(folder, process, port, payload)


@contextmanager
def _started(
    command: list[str], environ: dict[str, str], log: Path, watch: int
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=out, stderr=out, start_new_session=True
        )
    try:
        _wait_until_ready(watch, process, log)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _sample(folder: Path, workflow: str) -> Path:
    """Make a repository with one commit and a push payload about it."""
    repository = folder / "sample"
    (repository / ".github/workflows").mkdir(parents=True)
    (repository / ".github/workflows/bench.yml").write_text(workflow)
    git = ["git", "-C", str(repository), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "a commit to run"]):
        subprocess.run([*git, *command], check=True)
    sha = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    facts = checkout.Checkout(full_name=NAME, ref="refs/heads/main", sha=sha, message="a commit to run")
    body = checkout.payload("push", facts)
    # GitHub's own payloads are larger than ours: 7 KB is what its example of a push has.
    body["padding"] = "x" * max(0, 7000 - len(json.dumps(body)))
    path = folder / "push.json"
    path.write_text(json.dumps(body))
    return path


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the daemon ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise SystemExit("the daemon did not get ready")
