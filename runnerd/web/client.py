"""Asks a running daemon over its control socket. Standard library alone, so that a command starts at once."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

TIMEOUT = 15.0
"""Seconds for one request beyond what it asks the daemon to wait."""


class Unreachable(Exception):
    """No daemon answers on the socket; the sentence says what to look at."""


class Refusal(Exception):
    """The daemon answered, and refused; `status` is HTTP's."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class Client:
    """The control API by its verbs; every answer is what its JSON holds.

    Each method raises `Unreachable` when no daemon answers and `Refusal` when it says no.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)

    def status(self) -> Any:
        """The daemon at a glance."""
        return self.ask("GET", "/v1/status")

    def runs(self, limit: int = 20, before: int | None = None, repository: str | None = None) -> Any:
        """Runs, newest first: a list of records."""
        query = {"limit": limit, "before": before, "repository": repository}
        return self.ask("GET", "/v1/runs", query)["runs"]

    def run(self, run: int) -> Any:
        """One run: `run`, `jobs` and `notes`."""
        return self.ask("GET", f"/v1/runs/{run}")

    def explain(self, run: int) -> Any:
        """Why each workflow and job of a run ran, was skipped or waits: `run`, `notes` and `jobs`."""
        return self.ask("GET", f"/v1/runs/{run}/explain")

    def log(self, run: int, job: int, offset: int = 0, wait: int = 0) -> Any:
        """A piece of a job's log: `text`, `next` and `end`; waits up to `wait` seconds for something new."""
        query = {"offset": offset, "wait": wait}
        return self.ask("GET", f"/v1/runs/{run}/jobs/{job}/log", query, timeout=TIMEOUT + wait)

    def cancel(self, run: int) -> Any:
        """End a run."""
        return self.ask("POST", f"/v1/runs/{run}/cancel")

    def approve(self, run: int) -> Any:
        """Let a run start that waits for approval."""
        return self.ask("POST", f"/v1/runs/{run}/approve")

    def rerun(
        self, run: int, job: str | None = None, step: str | None = None, *, failed: bool = False
    ) -> Any:
        """Run again what has ended, whole, or one job of it (from a step), or those that failed."""
        query = {"job": job, "from": step, "failed": 1 if failed else None}
        return self.ask("POST", f"/v1/runs/{run}/rerun", query)

    def drain(self) -> Any:
        """Let the daemon finish what runs and end."""
        return self.ask("POST", "/v1/drain")

    def pause(self, reason: str = "") -> Any:
        """Have jobs wait until `resume`."""
        return self.ask("POST", "/v1/pause", {"reason": reason or None})

    def resume(self) -> Any:
        """Start jobs again."""
        return self.ask("POST", "/v1/resume")

    def look_at_images(self) -> Any:
        """Have what was built taken up at once."""
        return self.ask("POST", "/v1/images/look")

    def pool(self) -> Any:
        """The machines."""
        return self.ask("GET", "/v1/pool")

    def machines(self) -> Any:
        """The machines of the last day, those that are gone as well, the newest first."""
        return self.ask("GET", "/v1/machines")

    def ask(
        self, method: str, path: str, query: dict[str, Any] | None = None, *, timeout: float = TIMEOUT
    ) -> Any:
        """Send one request and return its JSON."""
        given = {key: value for key, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        connection = _UnixConnection(self.path, timeout)
        try:
            connection.request(method, target, headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read()
            answer = json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unreachable(self.path, error) from error
        finally:
            connection.close()
        if response.status >= 400:
            sentence = answer.get("error") if isinstance(answer, dict) else None
            raise Refusal(str(sentence or f"the daemon answered {response.status}"), response.status)
        return answer


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("runnerd", timeout=timeout)
        self._path, self._seconds = path, timeout

    def connect(self) -> None:
        self.sock = connect(self._path, self._seconds)


def connect(path: str, timeout: float) -> socket.socket:
    """Open a connection to a control socket; raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def unreachable(path: str, error: Exception) -> Unreachable:
    """Say why no daemon answers on a socket."""
    return Unreachable(_why(path, error))


def _why(path: str, error: Exception) -> str:
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            return f"no daemon listens on {path}: is `runnerd serve` running, and is RUNNERD_SOCKET the same?"
        case PermissionError():
            return f"{path} may not be opened by this user: join the group that owns it"
        case TimeoutError():
            return f"the daemon on {path} does not answer"
        case _:
            said = str(error) or type(error).__name__
            return f"what listens on {path} did not answer as a daemon does: {said}"
