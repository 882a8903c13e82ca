"""The daemon: how it starts, refuses to, and ends; as a process of its own where signals matter."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import asynccontextmanager, closing, contextmanager, suppress

import httpx
import pytest
import trio

from runnerd.cli.demo_daemon import clean_environment, free_ports
from runnerd.config import load
from runnerd.daemon import pages, serve
from runnerd.daemon.serve import open_forge
from runnerd.forge.links import Links
from runnerd.forge.signature import sign
from runnerd.machines.driver import NoMachine
from runnerd.machines.fake import open_fake_driver
from runnerd.web.client import Client

SECRET = "a secret for tests"
FULL_NAME = "octo/hello"
PATIENCE = 300.0
SLOW = """
name: Slow
on: push
jobs:
  slow:
    runs-on: ubuntu-latest
    steps:
      - run: |
          echo started > "$MARK"
          while [ ! -e "$MARK.go" ]; do sleep 0.05; done
          echo ended
      - if: cancelled()
        run: |
          echo "tidied up"
          while [ ! -e "$MARK.leave" ]; do sleep 0.05; done
"""


@pytest.fixture
def origin(tmp_path):
    """A repository with one workflow whose job waits for a file; returns (folder, commit, mark)."""
    folder, mark = tmp_path / "origin", tmp_path / "mark"
    (folder / ".github/workflows").mkdir(parents=True)
    (folder / ".github/workflows/slow.yml").write_text(SLOW.replace("$MARK", str(mark)))
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q", "-b", "main"], ["add", "--all"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True, env=environ)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, env=environ, capture_output=True, text=True
    )
    return folder, head.stdout.strip(), mark


class Daemon:
    """`runnerd serve` with the process driver and a state directory of its own."""

    def __init__(self, folder, origin, *, allowed=True, taken=None):
        self.state, runtime = folder / "state", folder / "run"
        self.port, self.metrics = free_ports(2)
        if taken is not None:
            self.port = taken.getsockname()[1]
        self.log = folder / f"daemon-{self.port}.log"
        settings = folder / f"config-{self.port}.toml"
        settings.write_text(
            f"""
[server]
port = {self.port}
metrics = "127.0.0.1:{self.metrics}"
public_url = "http://127.0.0.1:{self.port}"
[webhook]
secret = "{SECRET}"
[machines]
driver = "process"
allow_unisolated = {str(allowed).lower()}
memory = 128
[repositories."{FULL_NAME}"]
remote = "{origin}"
"""
        )
        for path in (self.state, runtime):
            path.mkdir(exist_ok=True)
        environ = {"STATE_DIRECTORY": str(self.state), "RUNTIME_DIRECTORY": str(runtime)}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runnerd", "serve", "--config", str(settings)],
                env=clean_environment(os.environ) | environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def logged(self, text):
        """Whether the only job's log has this line of output."""
        paths = list((self.state / "logs" / "1").glob("*.log"))
        return any(line.endswith(f"Z {text}") for path in paths for line in path.read_text().splitlines())

    def said(self):
        return self.log.read_text()

    def ready(self):
        """Wait until it serves."""
        self.until(lambda: self._get("/readyz") == 200, "ready")
        return self

    def until(self, question, what):
        deadline = time.monotonic() + PATIENCE
        while not (answer := question()):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, f"not in time: {what}\n{self.said()}"
            time.sleep(0.02)
        return answer

    def _get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics, timeout=5)
        with closing(connection):
            try:
                connection.request("GET", path)
                return connection.getresponse().status
            except OSError:
                return 0

    def push(self, sha, delivery="d-1"):
        """Deliver a push; returns status and answer."""
        body = json.dumps(
            {
                "ref": "refs/heads/main",
                "before": "0" * 40,
                "after": sha,
                "repository": {"id": 5, "full_name": FULL_NAME},
                "sender": {"id": 1, "login": "ada"},
            }
        ).encode()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": delivery,
            "X-Hub-Signature-256": sign(body, SECRET),
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with closing(connection):
            connection.request("POST", "/webhook", body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def report(self, run=1):
        """What the forge would have been told of a run, once it has ended; None before."""
        path = self.state / "reports" / f"{run}.json"
        if not path.exists():
            return None
        report = json.loads(path.read_text())
        return report if report["run"].get("outcome") else None

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def ended(self):
        """Wait for its end; returns its exit status."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end:\n{self.said()}")

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def running(folder, origin, **options):
    """A daemon that is gone afterwards, whatever happens."""
    daemon = Daemon(folder, origin, **options)
    try:
        yield daemon
    finally:
        daemon.close()


def outcomes(report):
    return [job["outcome"] for job in report["jobs"]]


@pytest.mark.system
def test_a_push_is_run_and_reported_and_the_daemon_drains(tmp_path, origin):
    """Signed push to written report; a second daemon is refused meanwhile; SIGTERM lets the job end first,
    and the daemon tells whoever asks."""
    folder, sha, mark = origin
    with running(tmp_path, folder) as daemon:
        assert daemon.ready().push(sha)[0] == 202
        daemon.until(mark.exists, "the job's first step")
        with running(tmp_path, folder) as second:
            assert second.ended() == 2
            assert f"is in use by the process {daemon.process.pid}" in second.said()
        assert daemon.push(sha) == (
            200,
            {"message": "Delivery was received before; nothing is started again", "status": "duplicate"},
        )
        daemon.terminate()
        daemon.until(lambda: "draining" in daemon.said(), "the drain")
        time.sleep(0.3)
        assert daemon.process.poll() is None
        status = Client(tmp_path / "run" / "control.sock").status()
        assert (status["draining"], status["open_runs"]) == (True, [1])
        mark.with_suffix(".go").touch()
        assert daemon.ended() == 0
        report = daemon.report()
        assert (report["run"]["outcome"], outcomes(report)) == ("success", ["success"])
        assert (tmp_path / "state" / "reports" / "1.md").exists()
        assert not any((tmp_path / "state" / "machines").glob("process-*"))


@pytest.mark.system
def test_a_report_links_to_pages_of_the_daemon(tmp_path, origin):
    """The run's page leads to its job's, which shows what it printed so far; a wrong seal shows nothing."""
    folder, sha, mark = origin
    with running(tmp_path, folder) as daemon:
        assert daemon.ready().push(sha)[0] == 202
        daemon.until(mark.exists, "the job's first step")
        links = Links(public_url=f"http://127.0.0.1:{daemon.port}", key=pages.key(daemon.state))
        run = httpx.get(links.of(1, None), timeout=PATIENCE)
        assert "slow: running" in run.text
        job = next(line for line in run.text.splitlines() if "/jobs/" in line)
        daemon.until(lambda: "Run echo started" in httpx.get(job, timeout=PATIENCE).text, "the job's log")
        assert httpx.get(job + "0", timeout=PATIENCE).status_code == 404
        mark.with_suffix(".go").touch()
        daemon.terminate()
        assert daemon.ended() == 0
    assert {status["target_url"] for status in daemon.report()["statuses"]} == {job}


@pytest.mark.system
def test_the_second_signal_cancels_what_runs(tmp_path, origin):
    """The job is recorded and reported as cancelled, its steps for that case ran, and the daemon ends."""
    folder, sha, mark = origin
    with running(tmp_path, folder) as daemon:
        daemon.ready().push(sha)
        daemon.until(mark.exists, "the job's first step")
        daemon.terminate()
        daemon.until(lambda: "draining" in daemon.said(), "the drain")
        mark.with_suffix(".leave").touch()
        daemon.terminate()
        assert daemon.ended() == 0
        report = daemon.report()
        assert (report["run"]["outcome"], outcomes(report)) == ("cancelled", ["cancelled"])
        assert daemon.logged("tidied up")


@pytest.mark.system
def test_the_third_signal_ends_at_once_and_the_next_start_settles(tmp_path, origin):
    """Nothing is waited for; the job whose step had started is lost, and says so after the next start."""
    folder, sha, mark = origin
    with running(tmp_path, folder) as daemon:
        daemon.ready().push(sha)
        daemon.until(mark.exists, "the job's first step")
        daemon.terminate()
        daemon.until(lambda: "draining" in daemon.said(), "the drain")
        daemon.terminate()
        daemon.until(lambda: daemon.logged("tidied up"), "the step for a cancelled job, which does not end")
        daemon.terminate()
        before = time.monotonic()
        assert daemon.ended() == 130
        assert time.monotonic() - before < 60
        assert daemon.report() is None
        assert not any((tmp_path / "state" / "machines").glob("process-*"))
    with running(tmp_path, folder) as again:
        report = again.until(again.report, "the report")
        assert (report["run"]["outcome"], outcomes(report)) == ("lost", ["lost"])
        again.terminate()
        assert again.ended() == 0


@pytest.mark.system
def test_a_paused_daemon_ends_as_soon_as_its_running_jobs_have(tmp_path, origin):
    """What runs goes on to its end, what waits stays queued over restarts, and runs once it is resumed."""
    folder, sha, mark = origin
    control = Client(tmp_path / "run" / "control.sock")

    def waits():
        return ["paused: a disk" in line["why"] for line in control.pool()["waiting"]] == [True]

    def phases():
        with closing(sqlite3.connect(tmp_path / "state" / "ledger.db")) as ledger:
            return [phase for (phase,) in ledger.execute("SELECT phase FROM jobs ORDER BY id")]

    with running(tmp_path, folder) as daemon:
        daemon.ready().push(sha)
        daemon.until(mark.exists, "the job's first step")
        control.pause("a disk")
        daemon.push(sha, "d-2")
        daemon.until(waits, "the second job waits for the end of the pause")
        daemon.terminate()
        daemon.until(lambda: "draining" in daemon.said(), "the drain")
        mark.with_suffix(".go").touch()
        assert daemon.ended() == 0
        assert outcomes(daemon.report()) == ["success"]
        assert phases() == ["done", "queued"]
    with running(tmp_path, folder) as idle:
        idle.ready().until(waits, "the pause outlives the daemon")
        idle.terminate()
        assert idle.ended() == 0
        assert phases() == ["done", "queued"]
    with running(tmp_path, folder) as again:
        again.ready()
        control.resume()
        again.until(lambda: again.report(2), "the report")
        assert outcomes(again.report(2)) == ["success"]
        again.terminate()
        assert again.ended() == 0


@pytest.mark.system
def test_machines_without_isolation_have_to_be_allowed(tmp_path, origin):
    """Webhooks never reach plain processes unless the operator wrote so."""
    with running(tmp_path, origin[0], allowed=False) as daemon:
        assert daemon.ended() == 2
        assert "allow_unisolated = true" in daemon.said()
        assert not (tmp_path / "state" / "ledger.db").exists()


def configured(tmp_path, **flags):
    """A daemon's configuration that listens on any free port."""
    environ = {
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "RUNTIME_DIRECTORY": str(tmp_path / "run"),
        "GITHUB_WEBHOOK_SECRET": SECRET,
        "HOME": str(tmp_path),
        "PORT": "0",
        "RUNNERD_SERVER_METRICS": "",
    }
    return load(
        None, environ=environ, flags={name.replace("__", "."): value for name, value in flags.items()}
    )


def driver(**options):
    """How a driver in memory is had; `build` is called for each template."""
    build = options.pop("build")

    @asynccontextmanager
    async def open_driver(config, journal, own):
        async with open_fake_driver(**options) as driver:
            driver.build_template = build
            yield driver

    return open_driver


def test_a_driver_that_is_not_there_ends_the_start_with_a_sentence(tmp_path, capfd):
    """Exit status 5 and the cure, no traceback."""
    assert serve(configured(tmp_path, machines__driver="fcctl")) == 5
    said = capfd.readouterr().err
    assert "the pool did not start: the fcctl driver needs the address of its service" in said
    assert "Traceback" not in said


def test_a_key_of_snapshots_that_cannot_be_had_ends_the_start_with_a_sentence(tmp_path, capfd):
    """Exit status 2, before anything is opened: nothing would be kept of jobs that are to be."""
    key = str(tmp_path / "no/such/folder/key")
    assert serve(configured(tmp_path, snapshots__secrets=True, snapshots__key=key)) == 2
    assert "runnerd: the key of [snapshots] cannot be used: " in capfd.readouterr().err
    assert not (tmp_path / "state" / "ledger.db").exists()


def test_an_image_that_is_not_there_keeps_no_daemon_from_serving(tmp_path):
    """Webhooks are taken and the pool says what is wrong and the cure; a restart would change nothing."""
    [port], seen = free_ports(1), []
    config = configured(tmp_path, server__port=port)

    async def build(image, size, generation):
        if not seen:
            with suppress(OSError):  # it is still starting
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                seen.append(await trio.to_thread.run_sync(Client(config.control_socket).pool))
                os.kill(os.getpid(), signal.SIGTERM)
        raise NoMachine(f"image {image!r} is not built yet: run `runnerd image build`")

    assert serve(config, open_driver=driver(build=build)) == 0
    assert not seen[0]["ready"]
    assert "image 'default' is not built yet: run `runnerd image build`" in seen[0]["trouble"][0]


@pytest.mark.system
def test_a_taken_port_ends_the_start_with_a_sentence(tmp_path, origin):
    """Exit status 1 and who could not start, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken, running(tmp_path, origin[0], taken=taken) as daemon:
        assert daemon.ended() == 1
        assert "runnerd: the receiver did not start: cannot listen on 127.0.0.1:" in daemon.said()
        assert "end what listens there, or mend [server] host and port" in daemon.said()
        assert "Traceback" not in daemon.said()


def test_a_signal_during_the_start_ends_it_in_order(tmp_path, capfd):
    """SIGTERM while a template is made: what serves already is drained, and the exit is clean."""

    async def build(image, size, generation):
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep(60)

    before = time.monotonic()
    assert serve(configured(tmp_path), open_driver=driver(build=build)) == 0
    assert time.monotonic() - before < PATIENCE
    assert "Traceback" not in capfd.readouterr().err


def test_who_asks_during_a_long_start_is_answered(tmp_path):
    """The first template takes a minute where machines are emulated: control says so meanwhile."""
    config, seen = configured(tmp_path), []

    async def build(image, size, generation):
        seen.append(await trio.to_thread.run_sync(Client(config.control_socket).status))
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep(60)

    assert serve(config, open_driver=driver(build=build)) == 0
    assert seen[0]["machines"] == {"ready": False, "trouble": ["the first template is being made"]}


@pytest.mark.parametrize(
    ("forge", "kind"),
    [
        ({}, "NoneType"),
        ({"forge.token": "t"}, "GitHub PersonalToken"),
        ({"forge.app_id": "7", "forge.app_private_key": "k", "forge.token": "t"}, "GitHub GitHubApp"),
        ({"forge.kind": "gitea", "forge.token": "t", "forge.api": "https://x.example/api/v1"}, "Gitea"),
    ],
)
async def test_the_configured_forge_is_spoken_to(tmp_path, forge, kind):
    """Nobody, a personal token, an App (which goes before a token), or Gitea; nothing is asked yet."""
    async with open_forge(configured(tmp_path, **forge)) as opened:
        identity = getattr(opened, "identity", None)
        names = [type(opened).__name__, *([type(identity).__name__] if identity else [])]
        assert " ".join(names) == kind
