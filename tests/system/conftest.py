"""The whole daemon as a process of its own: started, spoken to from outside, killed, and looked at."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from runnerd.cli import checkout
from runnerd.cli.demo_daemon import clean_environment, free_ports
from runnerd.forge.signature import sign
from runnerd.web.client import Client

T = TypeVar("T")

SERVE = (sys.executable, "-m", "runnerd", "serve")
SECRET = "the webhook secret of the system tests"
REPOSITORY = "local/repo"

PROCESSES = """
[machines]
driver = "process"
allow_unisolated = true
memory = 256
"""

MICROVMS = """
[pool]
ready_timeout = 60.0

[machines]
driver = "qemu"
vcpus = 1
memory = 256
disk = 512
"""


PATIENCE = 300.0
"""Seconds for whatever is waited for: a busy host, whose machines are emulated, takes minutes."""


def wait_for(question: Callable[[], T], what: str, *, pause: float = 0.02) -> T:
    """Ask until the answer is true and return it; fail with `what` when that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := question()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {PATIENCE:g} s: {what}")
        time.sleep(pause)
    return answer


class Sample:
    """A git repository on disk that plays the forge's, without any configuration of the user's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._git("init", "--quiet", "--initial-branch=main", ".")

    def commit(self, files: Mapping[str, str]) -> str:
        """Write the files, commit everything and return the commit."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "--message", f"commit {time.monotonic_ns()}")
        return self._git("rev-parse", "HEAD")

    def workflow(self, text: str, name: str = "ci.yml") -> str:
        """Commit one workflow."""
        return self.commit({f".github/workflows/{name}": text})

    def _git(self, *arguments: str) -> str:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "octo" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()


def push(sha: str, ref: str = "refs/heads/main") -> bytes:
    """The body of a push."""
    facts = checkout.Checkout(full_name=REPOSITORY, ref=ref, sha=sha, message="a change")
    return json.dumps(checkout.payload("push", facts)).encode()


class Daemon:
    """`runnerd serve` with a state of its own, on ports of its own."""

    def __init__(
        self, folder: Path, sample: Sample, machines: str, *, command: Sequence[str], settings: str = ""
    ) -> None:
        self.folder = folder
        self.state, runtime = folder / "state", folder / "run"
        for path in (self.state, runtime):
            path.mkdir(parents=True)
        self.port, self.metrics_port = free_ports(2)
        self.client = Client(runtime / "control.sock")
        self.log = folder / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [*command, "--config", str(folder / "config.toml")]
        self._environ = clean_environment(os.environ) | {
            "STATE_DIRECTORY": str(self.state),
            "RUNTIME_DIRECTORY": str(runtime),
        }
        (folder / "config.toml").write_text(
            f"""
[server]
port = {self.port}
metrics = "127.0.0.1:{self.metrics_port}"

[webhook]
secret = {json.dumps(SECRET)}

[repositories.{json.dumps(REPOSITORY)}]
remote = {json.dumps(str(sample.folder))}
{machines}{settings}""",
            "utf-8",
        )

    # --- its life ---

    def start(self) -> Daemon:
        """Start it; it is not ready yet."""
        assert self.process is None or self.process.poll() is not None
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command,
                env=self._environ,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def wait_ready(self) -> Daemon:
        """Wait for `/readyz`."""
        wait_for(lambda: self._alive() and self.health("/readyz")[0] == 200, "ready")
        return self

    def kill(self) -> None:
        """SIGKILL it, and nothing that belongs to it."""
        assert self._alive()
        self._process.kill()
        self._ended()

    def stop(self) -> int:
        """SIGTERM, which drains; returns the exit status."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._ended(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not drain within {PATIENCE:g} s:\n{self.tail()}")

    def end(self) -> None:
        """Whatever happened in the test: it and its machines are gone afterwards."""
        if self.process is None:
            return
        for _ in range(3):  # drain, cancel the jobs, end at once
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
                break
            except subprocess.TimeoutExpired:
                continue
        self.process.kill()
        self._ended()

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def tail(self, lines: int = 40) -> str:
        """The end of what it said."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "it was not started"
        return self.process

    def _alive(self) -> bool:
        assert self._process.poll() is None, f"it ended by itself:\n{self.tail()}"
        return True

    def _ended(self, seconds: float | None = None) -> int:
        status = self._process.wait(seconds)
        assert self._process.stdin is not None
        self._process.stdin.close()
        return status

    # --- its outside ---

    def post(
        self,
        body: bytes,
        *,
        event: str | None = "push",
        delivery: str | None = None,
        signature: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> tuple[int, Any]:
        """Post a webhook, signed as it should be unless told otherwise; returns status and answer."""
        sent = {
            "Content-Type": "application/json",
            "X-Hub-Signature-256": sign(body, SECRET) if signature is None else signature,
            **({"X-GitHub-Event": event} if event else {}),
            **({"X-GitHub-Delivery": delivery} if delivery else {}),
            **(headers or {}),
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with closing(connection):
            connection.request("POST", "/webhook", body, {k: v for k, v in sent.items() if v})
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def deliver(self, sha: str, ref: str = "refs/heads/main") -> str:
        """Post a push that is accepted; returns its delivery id."""
        delivery = str(uuid.uuid4())
        status, answer = self.post(push(sha, ref), delivery=delivery)
        assert status == 202, answer
        return delivery

    def health(self, path: str) -> tuple[int, str]:
        """Ask the health listener; status 0 while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=10)
        with closing(connection):
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode()
            except (OSError, http.client.HTTPException):
                return 0, ""

    def metric(self, sample: str) -> float:
        """The value of one line of `/metrics`; 0 when it is not there."""
        for line in self.health("/metrics")[1].splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0

    # --- what it keeps ---

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Ask the ledger itself, beside the daemon."""
        with closing(sqlite3.connect(f"file:{self.state}/ledger.db?mode=ro", uri=True, timeout=10)) as ledger:
            ledger.row_factory = sqlite3.Row
            return [dict(row) for row in ledger.execute(query, values)]

    def settled(self) -> bool:
        """Whether nothing is owed: no delivery to plan, no run open, no report to send."""
        (row,) = self.rows(
            "SELECT (SELECT count(*) FROM deliveries WHERE state = 'pending')"
            " + (SELECT count(*) FROM runs WHERE phase <> 'done')"
            " + (SELECT count(*) FROM outbox WHERE sent IS NULL) AS owed"
        )
        return row["owed"] == 0

    def wait_settled(self) -> None:
        """Wait until nothing is owed."""
        wait_for(lambda: self._alive() and self.settled(), "everything settled", pause=0.1)

    def runs_of(self, delivery: str) -> list[dict[str, Any]]:
        """The runs a delivery came to."""
        return self.rows("SELECT * FROM runs WHERE delivery = ? ORDER BY id", delivery)

    def jobs_of(self, run: int) -> list[dict[str, Any]]:
        """The jobs of a run, in order."""
        return self.rows("SELECT * FROM jobs WHERE run = ? ORDER BY id", run)

    def wait_done(self, delivery: str) -> dict[str, Any]:
        """Wait until the one run of a delivery has its terminal report, and return that report."""

        def done() -> Any:
            self._alive()
            runs = self.runs_of(delivery)
            if not runs or runs[0]["phase"] != "done" or not self.settled():
                return None
            (run,) = runs
            return self.report(run["id"])

        return wait_for(done, f"the report of delivery {delivery}")

    def report(self, run: int) -> dict[str, Any]:
        """What the forge would have been told about a run."""
        return json.loads((self.state / "reports" / f"{run}.json").read_text("utf-8"))

    def log_of(self, job: Mapping[str, Any]) -> list[str]:
        """The lines of a job's log, without their times; none where it wrote none."""
        path = self.state / "logs" / str(job["run"]) / f"{job['id']}.log"
        if not path.exists():
            return []
        return [line.partition(" ")[2] for line in path.read_text("utf-8").splitlines()]

    def left(self) -> dict[int, str]:
        """Processes that belong to its state folder, itself not among them: number and command."""
        mark = os.fsencode(self.state)
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            if self.process is not None and int(entry.name) == self.process.pid:
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                about = command + (entry / "environ").read_bytes() + os.fsencode(os.readlink(entry / "cwd"))
            except OSError:  # it ended, or it is not ours to look at
                continue
            if mark in about:
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        return found


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """An empty repository."""
    return Sample(tmp_path / "sample")


@pytest.fixture
def make_daemon(tmp_path: Path, sample: Sample) -> Iterator[Callable[..., Daemon]]:
    """Daemons that are not started yet; whatever becomes of them is ended with the test."""
    made: list[Daemon] = []

    def make(
        machines: str,
        *,
        command: Sequence[str] = (sys.executable, "-m", "runnerd", "serve"),
        settings: str = "",
    ) -> Daemon:
        folder = tmp_path / f"daemon{len(made)}"
        made.append(Daemon(folder, sample, machines, command=command, settings=settings))
        return made[-1]

    yield make
    for daemon in made:
        daemon.end()


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon whose machines are plain processes, ready."""
    return make_daemon(PROCESSES).start().wait_ready()


@pytest.fixture
def vm_daemon(make_daemon: Callable[..., Daemon], vm_image: object, state_directory: Path) -> Daemon:
    """A daemon with real microVMs, not started yet; images and templates are those of all tests."""
    daemon = make_daemon(MICROVMS)
    for name in ("images", "snapshots"):
        (state_directory / name).mkdir(exist_ok=True)
        (daemon.state / name).symlink_to(state_directory / name)
    return daemon
