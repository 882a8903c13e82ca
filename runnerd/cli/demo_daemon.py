"""The demo's daemon: a child process with a state of its own, waited for, listened to, ended in order."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from runnerd.cli import demo_sample
from runnerd.web.client import Client

POLL = 0.1
GRACE = (60.0, 20.0, 5.0)
"""Seconds the daemon has after the first SIGTERM, the second and the third, before it is killed."""

_CONFIGURING = ("RUNNERD_", "GITHUB_", "FIRECRACKER_", "OLLAMA_", "OPENROUTER_", "LISTEN_")
_SYSTEMD = {
    *("PORT", "HOST", "USE_LLM_PARSER", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CONFIGURATION_DIRECTORY"),
    *("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
}


class DaemonDied(Exception):
    """The daemon ended or did not do in time what was waited for; the sentence says which."""


class DemoDaemon:
    """`runnerd serve` on free ports of this host, with the sample as its only repository."""

    def __init__(
        self,
        state: Path,
        runtime: Path,
        *,
        secret: str,
        command: tuple[str, ...] = (sys.executable, "-m", "runnerd", "serve"),
    ) -> None:
        self.port, self.metrics_port = free_ports(2)
        self.log = state / "daemon.log"
        self.client = Client(runtime / "control.sock")
        settings = state / "config.toml"
        settings.write_text(config_text(state, self.port, self.metrics_port), "utf-8")
        environ = clean_environment(os.environ) | {
            "STATE_DIRECTORY": str(state),
            "RUNTIME_DIRECTORY": str(runtime),
            "GITHUB_WEBHOOK_SECRET": secret,
        }
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "--config", str(settings)],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise `DaemonDied` when the daemon has ended."""
        if (code := self._process.poll()) is not None:
            raise DaemonDied(f"the daemon ended by itself with status {code}")

    def wait_ready(self, patience: float, tell: Callable[[str], None]) -> None:
        """Wait until `/readyz` says yes, telling each new reason why not; raises `DaemonDied`."""
        deadline = time.monotonic() + patience
        told = ""
        while True:
            self.check()
            reasons = self._reasons()
            if reasons == "":
                return
            if reasons is not None and reasons != told:
                tell(reasons)
                told = reasons
            if time.monotonic() > deadline:
                raise DaemonDied(f"the daemon was not ready after {patience:.0f} s: {told or 'no answer'}")
            time.sleep(POLL)

    def _reasons(self) -> str | None:
        """Why the daemon is not ready; empty when it is, None when it does not answer yet."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=10)
        try:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        if response.status == 200:
            return ""
        return "; ".join(problem["sentence"] for problem in answer["problems"])

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of what the daemon logged."""
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, grace: tuple[float, ...] = GRACE) -> int:
        """End the daemon as an operator does, harder each time; returns its exit status. Safe twice."""
        for seconds in grace:
            if self._process.poll() is not None:
                break
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait()


def config_text(state: Path, port: int, metrics_port: int) -> str:
    """Return the demo's config.toml: small machines, and the sample as the only repository."""
    remote = json.dumps(str(state / "sample"), ensure_ascii=False)
    return f"""\
# Written anew by every demo.
[server]
port = {port}
metrics = "127.0.0.1:{metrics_port}"

[machines]
vcpus = 1
memory = 512
disk = 2048

[repositories."{demo_sample.NAME}"]
remote = {remote}
"""


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what configures a daemon: the demo reports to no forge of its user's."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_CONFIGURING) and name not in _SYSTEMD
    }


def free_ports(count: int) -> tuple[int, ...]:
    """Return ports of the loopback that nobody listens on now, no two the same."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return tuple(each.getsockname()[1] for each in sockets)
    finally:
        for each in sockets:
            each.close()
