"""A GitHub that keeps statuses and comments in memory and holds every request to the documented shapes.

Served over HTTP like the real one. A request that GitHub would not take is answered as GitHub answers and
kept in `problems`. `faults` makes it fail: before or after applying a write, by a limit, slowly, wrongly.
"""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote

import trio

from runnerd.web import guard

CONCLUSIONS = ("action_required", "cancelled", "failure", "neutral", "success", "skipped", "timed_out")
ACTION = {"label": 20, "description": 40, "identifier": 20}
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
        self.checks: dict[tuple[str, str], list[dict[str, Any]]] = {}
        """By repository and commit, oldest first; each with all its `annotations`."""
        self.app: tuple[str, str, str] | None = None
        """Id, slug and public key (PEM) of the one App, where there is one."""
        self.installed: dict[str, int] = {}
        """Installation by the owner's name."""
        self.granted: dict[str, str] = {}
        """What every installation was allowed."""
        self.clock: Callable[[], float] = time.time
        self.before_answer: Callable[[], object] = lambda: None
        """Called when a request was done and its answer is still to be sent."""
        self.tokens: dict[str, dict[str, Any]] = {}
        """Living tokens of installations: `expires`, `permissions`, `repositories` (None: all), `owner`."""
        self.revoked: list[str] = []
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
            await nursery.start(partial(guard.serve, self, listeners, stop=stop))
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
        self.before_answer()
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
            else b""
            if answer is None
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
        if request.path.endswith("/pings"):
            return  # a wish without words
        if request.method in ("POST", "PATCH"):
            try:
                request.body = json.loads(body)
            except ValueError:
                self._problem(f"{where}: the body is not JSON")
        elif body:
            self._problem(f"{where}: a body")

    def _handle(self, request: Request) -> Reply:
        if self._who(request) is None:
            return 401, {}, {"message": "Bad credentials"}
        routes: list[tuple[str, str, Callable[..., Reply]]] = [
            ("GET", r"/user", self._user),
            ("POST", NAME + r"/statuses/([0-9a-f]{40})", self._create_status),
            ("GET", NAME + r"/commits/([0-9a-f]{40})/status", self._combined_status),
            ("GET", NAME + r"/issues/(\d+)/comments", self._list_comments),
            ("POST", NAME + r"/issues/(\d+)/comments", self._create_comment),
            ("PATCH", NAME + r"/issues/comments/(\d+)", self._update_comment),
            ("POST", NAME + r"/check-runs", self._create_check),
            ("PATCH", NAME + r"/check-runs/(\d+)", self._update_check),
            ("GET", NAME + r"/commits/([0-9a-f]{40})/check-runs", self._list_checks),
            ("GET", NAME + r"/hooks", lambda *_: (200, {}, [])),
            ("GET", r"/app/hook/deliveries", lambda *_: (200, {}, [])),
            ("GET", NAME + r"/pulls/\d+", lambda *_: (200, {}, {"mergeable": None})),
            ("GET", r"/app", self._app),
            ("GET", NAME + r"/installation", self._installation),
            ("POST", r"/app/installations/(\d+)/access_tokens", self._create_token),
            ("DELETE", r"/installation/token", self._revoke_token),
        ]
        for method, pattern, handler in routes:
            match = re.fullmatch(pattern, request.path)
            if match and method == request.method:
                return handler(request, *match.groups())
        self._problem(f"{request.method} {request.path}: GitHub has no such endpoint in use here")
        return 404, {}, {"message": "Not Found"}

    def _who(self, request: Request) -> str | None:
        """`token`, `app` or an installation's token; None for nobody we know."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer":
            return None
        if value == self.token:
            return "token"
        if value in self.tokens:
            return value if self.clock() < self.tokens[value]["expires"] else None
        return "app" if self.app is not None and self._signed(value) else None

    def _signed(self, value: str) -> bool:
        """Whether it is the App's signature, by GitHub's rules for its times."""
        import jwt

        assert self.app is not None
        try:
            claims = jwt.decode(value, self.app[2], algorithms=["RS256"], options={"verify_exp": False,
                                "verify_iat": False, "require": ["iat", "exp", "iss"]})  # fmt: skip
        except jwt.InvalidTokenError:
            return False
        if claims["exp"] - claims["iat"] > 600 or claims["iat"] > self.clock():
            self._problem(f"a signature with impossible times: {claims}")
            return False
        return claims["exp"] > self.clock() and claims["iss"] == self.app[0]

    def _may(self, request: Request, repository: str, name: str, level: str = "write") -> Reply | None:
        """None when the asking token may; otherwise GitHub's answer."""
        who = self._who(request)
        if who == "token":
            return None
        token = self.tokens.get(who or "")
        if token is None or repository.partition("/")[0] != token["owner"]:
            return 404, {}, {"message": "Not Found"}
        if token["repositories"] is not None and repository.partition("/")[2] not in token["repositories"]:
            return 404, {}, {"message": "Not Found"}
        if token["permissions"].get(name) not in (level, "write"):
            wanted = {"x-accepted-github-permissions": f"{name}={level}"}
            return 403, wanted, {"message": "Resource not accessible by integration"}
        return None

    def _app(self, request: Request) -> Reply:
        if self._who(request) != "app" or self.app is None:
            return 401, {}, {"message": "A JSON web token could not be decoded"}
        return 200, {}, {"id": 1, "slug": self.app[1], "permissions": self.granted, "events": ["push"]}

    def _installation(self, request: Request, repository: str) -> Reply:
        id = self.installed.get(repository.partition("/")[0])
        if self._who(request) != "app" or id is None:
            return 404, {}, {"message": "Not Found"}
        return 200, {}, {"id": id, "permissions": self.granted, "events": ["push"]}

    def _create_token(self, request: Request, id: str) -> Reply:
        owner = next((owner for owner, number in self.installed.items() if number == int(id)), None)
        if self._who(request) != "app" or owner is None:
            return 404, {}, {"message": "Not Found"}
        body = request.body or {}
        wanted = body.get("permissions") or self.granted  # GitHub reads nothing as everything
        for name, level in wanted.items():
            if name != "metadata" and self.granted.get(name) not in (level, "write"):
                return self._refuse(
                    request, "The permissions requested are not granted to this installation."
                )
        self._ids += 1
        value = f"ghs_{self._ids}_" + "x" * 700  # of no fixed length
        expires = self.clock() + 3600
        self.tokens[value] = {"expires": expires, "permissions": dict(wanted), "owner": owner,
                              "repositories": body.get("repositories")}  # fmt: skip
        at = datetime.datetime.fromtimestamp(expires, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return 201, {}, {"token": value, "expires_at": at, "permissions": wanted}

    def _revoke_token(self, request: Request) -> Reply:
        who = self._who(request)
        if who not in self.tokens:
            return 403, {}, {"message": "Resource not accessible"}
        del self.tokens[who]
        self.revoked.append(who)
        return 204, {}, None

    def _user(self, request: Request) -> Reply:
        if self._who(request) != "token":
            return 403, {}, {"message": "Resource not accessible by integration"}
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

    def _create_check(self, request: Request, repository: str) -> Reply:
        refused = self._may(request, repository, "checks")
        if refused is not None or self._who(request) == "token":
            return refused or (403, {}, {"message": "You must authenticate via a GitHub App."})
        error = self._check_fault(request, {"name": str, "head_sha": str})
        if error is not None:
            return self._refuse(request, error)
        body = request.body
        mine = self.checks.setdefault((repository, body["head_sha"]), [])
        if any(check["external_id"] == body.get("external_id") for check in mine):
            self._problem(f"a second check run for {body.get('external_id')}")
        self._ids += 1
        check = {"id": self._ids, "name": body["name"], "head_sha": body["head_sha"], "annotations": [],
                 "external_id": body.get("external_id", ""), "status": "queued", "conclusion": None,
                 "actions": [], "output": {}, "app": {"slug": self.app[1] if self.app else ""}}  # fmt: skip
        mine.append(check)
        return 201, {}, self._apply_check(check, body)

    def _update_check(self, request: Request, repository: str, id: str) -> Reply:
        refused = self._may(request, repository, "checks")
        error = self._check_fault(request, {})
        if refused is not None or error is not None:
            return refused or self._refuse(request, error or "")
        for (name, _), checks in self.checks.items():
            for check in checks:
                if name == repository and check["id"] == int(id):
                    if check["app"]["slug"] != (self.app[1] if self.app else ""):
                        return 403, {}, {"message": "Invalid app_id"}
                    return 200, {}, self._apply_check(check, request.body)
        return 404, {}, {"message": "Not Found"}

    def _apply_check(self, check: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        before = json.dumps(check)
        output = dict(body.get("output", {}))
        check["annotations"] = check["annotations"] + output.pop("annotations", [])
        check["output"] = {"title": None, "summary": None, "text": None} | output
        check |= {key: value for key, value in body.items() if key not in ("output", "head_sha")}
        if "conclusion" in body:
            check["status"] = "completed"
        elif check["status"] != "completed":
            check["conclusion"] = None
        if json.dumps(check) == before:
            self._problem(f"a check run was written that says what it said: {check['external_id']}")
        return self._seen(check)

    def _seen(self, check: dict[str, Any]) -> dict[str, Any]:
        shown = {key: value for key, value in check.items() if key not in ("annotations", "actions")}
        shown["output"] = check["output"] | {"annotations_count": len(check["annotations"])}
        return shown

    def _check_fault(self, request: Request, required: dict[str, type]) -> str | None:
        """What GitHub would refuse of a check run."""
        kinds = {"name": str, "external_id": str, "status": str, "conclusion": str, "started_at": str,
                 "completed_at": str, "details_url": str, "output": dict, "actions": list}  # fmt: skip
        error = self._shape(request, required, kinds)
        if error is not None:
            return error
        body = request.body
        output = body.get("output", {"title": "", "summary": ""})
        if not {"title", "summary"} <= output.keys():
            return "output needs a title and a summary"
        for key in ("summary", "text"):
            if len(output.get(key, "").encode()) > 65535:
                return f"{key} exceeds a maximum bytesize of 65535"
        if body.get("status") == "completed" and "conclusion" not in body:
            return "a completed check run needs a conclusion"
        if body.get("conclusion", "neutral") not in CONCLUSIONS or len(output["title"]) > 255:
            return "no such conclusion, or a title that is too long"
        annotations, actions = output.get("annotations", []), body.get("actions", [])
        if len(annotations) > 50 or len(actions) > 3:
            return "at most 50 annotations and 3 actions"
        for action in actions:
            if any(not 0 < len(action[key]) <= size for key, size in ACTION.items()):
                return f"a button whose words are too long: {action}"
        for each in annotations:
            if not {"path", "start_line", "end_line", "annotation_level", "message"} <= each.keys():
                return f"an annotation lacks something: {each}"
            if each["start_line"] != each["end_line"] and "start_column" in each:
                return "columns need one line"
        return None

    def _list_checks(self, request: Request, repository: str, sha: str) -> Reply:
        refused = self._may(request, repository, "checks", "read")
        if refused is not None:
            return refused
        query = dict(part.split("=") for part in request.query.split("&") if part)
        found = self.checks.get((repository, sha), [])
        wanted = [
            check for check in found if check["name"] == unquote(query.get("check_name", check["name"]))
        ]
        if query.get("filter") != "all":
            wanted = list({check["name"]: check for check in wanted}.values())
        page, extra = self._page(request, [self._seen(check) for check in wanted])
        return 200, extra, {"total_count": len(wanted), "check_runs": page}

    def _list_comments(self, request: Request, repository: str, number: str) -> Reply:
        page, extra = self._page(request, self.comments.get((repository, int(number)), []))
        return 200, extra, page

    def _create_comment(self, request: Request, repository: str, number: str) -> Reply:
        error = self._check_comment(request)
        if error is not None:
            return self._refuse(request, error)
        bot = self.app is not None and self._who(request) != "token"
        login = f"{self.app[1]}[bot]" if bot and self.app else self.login
        return 201, {}, self.comment(repository, int(number), request.body["body"], login)

    def _update_comment(self, request: Request, repository: str, id: str) -> Reply:
        error = self._check_comment(request)
        if error is not None:
            return self._refuse(request, error)
        for (name, _), comments in self.comments.items():
            for comment in comments:
                if name == repository and comment["id"] == int(id):
                    if comment["user"]["login"] not in (
                        self.login,
                        f"{self.app[1]}[bot]" if self.app else "",
                    ):
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
