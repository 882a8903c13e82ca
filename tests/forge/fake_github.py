"""A GitHub that keeps statuses and comments in memory and holds every request to the documented shapes.

Served over HTTP like the real one. A request that GitHub would not take is answered as GitHub answers and
kept in `problems`. `faults` makes it fail: before or after applying a write, by a limit, slowly, wrongly.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from runnerd.web import guard

STATES = ("error", "failure", "pending", "success")
NAME = r"/repos/([\w.-]+/[\w.-]+)"


@dataclass
class Fault:
    """What goes wrong with the next request whose method and path fit."""

    kind: str
    """`before` or `after` applying it; applied, but `hangup`: the answer breaks off, `garbage`: it is no
    JSON, `slow`: it comes late; `answer`: as given here, and not applied."""
    method: str = ""
    path: str = ""
    status: int = 502
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "Server Error"
    seconds: float = 0.0
    times: int = 1

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("", method) and self.path in path


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any


Reply = tuple[int, dict[str, str], Any]


class FakeGitHub:
    """The server's whole state, and what was asked of it."""

    def __init__(self, token: str = "ghp_test", login: str = "runnerd-bot") -> None:
        self.token = token
        self.login = login
        self.statuses: dict[tuple[str, str], list[dict[str, Any]]] = {}
        """By repository and commit, newest first."""
        self.comments: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self.requests: list[Request] = []
        self.problems: list[str] = []
        self.faults: list[Fault] = []
        self.per_page = 100
        self._ids = 0

    # --- what a test looks at ---

    def writes(self) -> list[Request]:
        """The requests that may change something."""
        return [request for request in self.requests if request.method != "GET"]

    def newest(self, repository: str, sha: str) -> dict[str, tuple[str, str]]:
        """State and description of each context of a commit."""
        found: dict[str, tuple[str, str]] = {}
        for status in self.statuses.get((repository, sha), []):
            found.setdefault(status["context"], (status["state"], status["description"]))
        return found

    def comment(self, repository: str, number: int, body: str, login: str) -> dict[str, Any]:
        """Add a comment as somebody."""
        self._ids += 1
        comment = {"id": self._ids, "body": body, "user": {"login": login, "id": 1, "type": "User"},
                   "html_url": f"https://github.com/{repository}/issues/{number}#{self._ids}"}  # fmt: skip
        self.comments.setdefault((repository, number), []).append(comment)
        return comment

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Serve it on a free port for the length of a block; yields the API's address."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(guard.serve, self, listeners, stop=stop, grace=0.1))
            try:
                yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            finally:
                nursery.cancel_scope.cancel()

    # --- the server ---

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        request = Request(scope["method"], scope["path"], scope["query_string"].decode(), headers, None)
        self.requests.append(request)
        self._check_headers(request, body)
        fault = next((f for f in self.faults if f.fits(request.method, request.path)), None)
        if fault is not None:
            fault.times -= 1
            if fault.kind == "slow":
                await trio.sleep(fault.seconds)
        if fault is None or fault.kind not in ("before", "answer"):
            status, extra, answer = self._handle(request)
        if fault is not None and fault.kind in ("before", "after", "answer"):
            status, extra, answer = fault.status, fault.headers, {"message": fault.message}
        if fault is not None and fault.kind == "hangup":  # within its answer
            half = {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"99")]}
            await send(half)
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            return
        data = (
            b"<html>Unicorn!</html>"
            if fault is not None and fault.kind == "garbage"
            else json.dumps(answer).encode()
        )
        fields = {"content-type": "application/json; charset=utf-8", "content-length": str(len(data)),
                  "x-ratelimit-limit": "5000", "x-ratelimit-remaining": "4999"} | extra  # fmt: skip
        pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": data})

    def _problem(self, sentence: str) -> None:
        self.problems.append(sentence)

    def _check_headers(self, request: Request, body: bytes) -> None:
        where = f"{request.method} {request.path}"
        agent = request.headers.get("user-agent", "")
        if not agent.startswith("runnerd/"):
            self._problem(f"{where}: GitHub refuses requests without a user agent of their own: {agent!r}")
        if request.headers.get("accept") != "application/vnd.github+json":
            self._problem(f"{where}: accept is {request.headers.get('accept')!r}")
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", request.headers.get("x-github-api-version", "")):
            self._problem(f"{where}: no API version")
        if request.method in ("POST", "PATCH"):
            try:
                request.body = json.loads(body)
            except ValueError:
                self._problem(f"{where}: the body is not JSON")
        elif body:
            self._problem(f"{where}: a body")

    def _handle(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {}, {"message": "Bad credentials"}
        routes: list[tuple[str, str, Callable[..., Reply]]] = [
            ("GET", r"/user", self._user),
            ("POST", NAME + r"/statuses/([0-9a-f]{40})", self._create_status),
            ("GET", NAME + r"/commits/([0-9a-f]{40})/status", self._combined_status),
            ("GET", NAME + r"/issues/(\d+)/comments", self._list_comments),
            ("POST", NAME + r"/issues/(\d+)/comments", self._create_comment),
            ("PATCH", NAME + r"/issues/comments/(\d+)", self._update_comment),
        ]
        for method, pattern, handler in routes:
            match = re.fullmatch(pattern, request.path)
            if match and method == request.method:
                return handler(request, *match.groups())
        self._problem(f"{request.method} {request.path}: GitHub has no such endpoint in use here")
        return 404, {}, {"message": "Not Found"}

    def _user(self, request: Request) -> Reply:
        return 200, {}, {"login": self.login, "id": 7, "type": "User"}

    def _shape(self, request: Request, required: dict[str, type], optional: dict[str, type]) -> str | None:
        """What is wrong with a body, by the documented types."""
        body = request.body
        if not isinstance(body, dict):
            return "body is not an object"
        for key, kind in required.items():
            if not isinstance(body.get(key), kind):
                return f"{key} is required and a {kind.__name__}"
        for key, value in body.items():
            if key not in required and (key not in optional or not isinstance(value, optional[key])):
                return f"{key} is not a documented field of this type"
        return None

    def _refuse(self, request: Request, error: str) -> Reply:
        self._problem(f"{request.method} {request.path}: {error}")
        return 422, {}, {"message": "Validation Failed", "errors": [{"code": "custom", "message": error}],
                         "documentation_url": "https://docs.github.com/rest"}  # fmt: skip

    def _create_status(self, request: Request, repository: str, sha: str) -> Reply:
        kinds = {"target_url": str, "description": str, "context": str}
        error = self._shape(request, {"state": str}, kinds)
        body = request.body
        if error is None and body["state"] not in STATES:
            error = f"state is one of {STATES}"
        if error is None and len(body.get("description", "")) > 140:
            error = "description is too long (maximum is 140 characters)"
        if error is None and len(body.get("context", "")) > 255:
            error = "context is too long (maximum is 255 characters)"
        if error is None and not re.match(r"https?://|$", body.get("target_url", "")):
            error = "target_url is not an address"
        mine = self.statuses.setdefault((repository, sha), [])
        same = [
            status
            for status in mine
            if error is None and status["context"].lower() == body["context"].lower()
        ]
        if len(same) >= 1000:
            error = "This SHA and context has reached the maximum number of statuses."
        if error is not None:
            return self._refuse(request, error)
        if same and all(
            (same[0][key] or "") == body.get(key, "") for key in ("state", "description", "target_url")
        ):
            self._problem(f"a status that changes nothing: {body}")
        self._ids += 1
        status = {"id": self._ids, "state": body["state"], "description": body.get("description"),
                  "target_url": body.get("target_url"),
                  "context": body.get("context", "default")}  # fmt: skip
        mine.insert(0, status)
        return 201, {}, status

    def _combined_status(self, request: Request, repository: str, sha: str) -> Reply:
        newest: dict[str, Any] = {}
        for status in self.statuses.get((repository, sha), []):
            newest.setdefault(status["context"].lower(), status)
        page, extra = self._page(request, list(newest.values()))
        return 200, extra, {"state": "pending", "sha": sha, "total_count": len(newest), "statuses": page,
                            "repository": {"full_name": repository}, "commit_url": "", "url": ""}  # fmt: skip

    def _page(self, request: Request, items: list[Any]) -> tuple[list[Any], dict[str, str]]:
        query = dict(part.split("=") for part in request.query.split("&") if part)
        size, number = int(query.get("per_page", 30)), int(query.get("page", 1))
        if size > 100 or number < 1:
            self._problem(f"{request.path}: per_page is at most 100 and page starts at 1")
        return items[(number - 1) * size : number * size], {}

    def _list_comments(self, request: Request, repository: str, number: str) -> Reply:
        page, extra = self._page(request, self.comments.get((repository, int(number)), []))
        return 200, extra, page

    def _create_comment(self, request: Request, repository: str, number: str) -> Reply:
        error = self._check_comment(request)
        if error is not None:
            return self._refuse(request, error)
        return 201, {}, self.comment(repository, int(number), request.body["body"], self.login)

    def _update_comment(self, request: Request, repository: str, id: str) -> Reply:
        error = self._check_comment(request)
        if error is not None:
            return self._refuse(request, error)
        for (name, _), comments in self.comments.items():
            for comment in comments:
                if name == repository and comment["id"] == int(id):
                    if comment["user"]["login"] != self.login:
                        self._problem("somebody else's comment was written over")
                    if comment["body"] == request.body["body"]:
                        self._problem("a comment was written that says what it said")
                    comment["body"] = request.body["body"]
                    return 200, {}, comment
        return 404, {}, {"message": "Not Found"}

    def _check_comment(self, request: Request) -> str | None:
        error = self._shape(request, {"body": str}, {})
        if error is None and not request.body["body"].strip():
            error = "Body cannot be blank"
        if error is None and len(request.body["body"]) > 65536:
            error = "Body is too long (maximum is 65536 characters)"
        return error
