"""The other side of the daemon's reports: a GitHub that keeps time and can keep silent, and git over HTTP."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trio

from ..forge.fake_github import FakeGitHub, Request


class Forge(FakeGitHub):
    """`FakeGitHub` for a test that is not a trio task: served from a thread, with the time of each request.

    `silent` is asked about each request that was done; the answer to one it names is kept back until `speak`.
    """

    def __init__(self, token: str) -> None:
        super().__init__(token=token)
        self.url = ""
        self.times: list[float] = []
        """When each of `requests` came, by the monotonic clock."""
        self.silent: Callable[[Request], bool] = lambda request: False
        self.kept_back = 0
        self._said: trio.Event | None = None

    def history(self, repository: str, sha: str) -> dict[str, list[tuple[str, str]]]:
        """State and description of every status of a commit by context, oldest first."""
        told: dict[str, list[tuple[str, str]]] = {}
        for status in reversed(self.statuses.get((repository, sha), [])):
            told.setdefault(status["context"], []).append((status["state"], status["description"]))
        return told

    def speak(self) -> None:
        """Keep nothing back from now on."""
        self.silent = lambda request: False

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Serve one request."""
        self.times.append(time.monotonic())

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start" and self.silent(self.requests[-1]):
                self.kept_back += 1
                await trio.sleep_forever()
            await send(message)

        await super().__call__(scope, receive, answer)

    @contextmanager
    def running(self) -> Iterator[Forge]:
        """Serve it for the length of a block."""
        ready = threading.Event()
        ended: list[Callable[[], None]] = []

        async def main() -> None:
            token, stop = trio.lowlevel.current_trio_token(), trio.Event()
            ended.append(lambda: trio.from_thread.run_sync(stop.set, trio_token=token))
            async with self.served() as self.url:
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=trio.run, args=(main,))
        thread.start()
        try:
            assert ready.wait(10), "the fake forge does not serve"
            yield self
        finally:
            for end in ended:
                end()
            thread.join()


class GitServer:
    """Repositories under `root` by git's own `http-backend`, to whoever logs in as any user with the token.

    Without a token everybody may read. `redirect` sends every request to another server instead. With `held`
    each answer takes a moment, and the first one until that is set, so that who asks can be looked at.
    """

    def __init__(
        self, root: Path, *, token: str = "", redirect: str = "", held: threading.Event | None = None
    ) -> None:
        self.url = ""
        self.logins: list[str] = []
        """User and password of every request that brought some."""
        self.requests: list[str] = []
        self._root, self._token, self._redirect, self._held = root, token, redirect, held

    @contextmanager
    def running(self) -> Iterator[GitServer]:
        """Serve it for the length of a block."""
        side = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                side._serve(self)

            def do_POST(self) -> None:
                side._serve(self)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = False  # so that closing waits for them
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{request.command} {request.path}")
        kind, _, value = request.headers.get("Authorization", "").partition(" ")
        login = base64.b64decode(value).decode() if kind == "Basic" else ""
        if login:
            self.logins.append(login)
        body = request.rfile.read(int(request.headers.get("Content-Length", "0")))
        if self._redirect:
            self._answer(request, 301, {"Location": self._redirect + request.path}, b"")
            return
        if self._token and login.partition(":")[2] != self._token:
            self._answer(request, 401, {"WWW-Authenticate": 'Basic realm="git"'}, b"who are you?")
            return
        if self._held is not None:
            time.sleep(0.3)
            self._held.wait(60)
        path, _, query = request.path.partition("?")
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._root),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "uploadpack.allowAnySHA1InWant",
            "GIT_CONFIG_VALUE_0": "true",
            "GIT_PROJECT_ROOT": str(self._root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": request.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        command = ["git", "http-backend"]
        done = subprocess.run(command, input=body, env=environ, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(fields.pop("Status", "200").split()[0])
        self._answer(request, status, fields, content)

    def _answer(
        self, request: BaseHTTPRequestHandler, status: int, fields: dict[str, str], body: bytes
    ) -> None:
        request.send_response(status)
        for name, value in (fields | {"Content-Length": str(len(body))}).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)
