"""A fake GitHub that has webhooks as well: it makes them, pings them, and remembers the answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .fake_github import NAME, FakeGitHub, Reply, Request


class HookedGitHub(FakeGitHub):
    """`receiver` is asked for the status that a ping is answered with; 0 is nobody there."""

    def __init__(self, token: str = "ghp_test") -> None:
        super().__init__(token=token)
        self.repositories = {"octo-org/hello": {"full_name": "octo-org/hello", "private": False, "id": 1}}
        self.hooks: list[dict[str, Any]] = []
        self.deliveries: list[dict[str, Any]] = []
        self.receiver: Callable[[dict[str, Any]], int] = lambda hook: 200
        self.events = ["push"]
        self.app_hook: dict[str, Any] = {"url": "", "content_type": "form"}
        self.lacking: set[str] = set()
        """Paths whose last part is refused for want of a permission."""

    def _handle(self, request: Request) -> Reply:
        if self._who(request) is None:
            return 401, {}, {"message": "Bad credentials"}
        if request.path.rpartition("/")[2] in self.lacking or (
            "statuses" in self.lacking and "/statuses/" in request.path
        ):
            return 403, {}, {"message": "Resource not accessible by personal access token"}
        routes: list[tuple[str, str, Callable[..., Reply]]] = [
            ("GET", NAME, self._repository),
            ("GET", NAME + r"/pulls", lambda request, name: (200, {}, [])),
            ("GET", NAME + r"/actions/permissions", lambda request, name: (200, {}, {"enabled": True})),
            ("POST", NAME + r"/statuses/0{40}", self._no_commit),
            ("GET", NAME + r"/hooks", lambda request, name: (200, {}, [_shown(hook) for hook in self.hooks])),
            ("POST", NAME + r"/hooks", self._create_hook),
            ("PATCH", NAME + r"/hooks/(\d+)", self._update_hook),
            ("POST", NAME + r"/hooks/(\d+)/pings", self._ping),
            ("GET", NAME + r"/hooks/(\d+)/deliveries", lambda *_: (200, {}, self.deliveries)),
            ("GET", NAME + r"/installation", self._installed),
            ("GET", r"/app/hook/config", lambda request: (200, {}, self.app_hook)),
            ("PATCH", r"/app/hook/config", self._configure),
            ("GET", r"/app/hook/deliveries", lambda request: (200, {}, self.deliveries[:1])),
        ]
        for method, pattern, handler in routes:
            match = re.fullmatch(pattern, request.path)
            if match and method == request.method:
                return handler(request, *match.groups())
        return super()._handle(request)

    def _repository(self, request: Request, name: str) -> Reply:
        found = self.repositories.get(name)
        return (404, {}, {"message": "Not Found"}) if found is None else (200, {}, found)

    def _no_commit(self, request: Request, name: str) -> Reply:
        return 422, {}, {"message": f"No commit found for SHA: {'0' * 40}"}

    def _create_hook(self, request: Request, name: str) -> Reply:
        body = request.body
        if body.get("name") != "web" or body["config"].get("content_type") != "json" or not body["events"]:
            return self._refuse(request, "not a webhook that GitHub makes")
        if {"merge_group", "workflow_dispatch", "repository_dispatch"} & set(body["events"]):
            return self._refuse(request, "an event that repositories' webhooks are not sent")
        self._ids += 1
        self.hooks.append({"id": self._ids, **body})
        return 201, {}, _shown(self.hooks[-1])

    def _update_hook(self, request: Request, name: str, id: str) -> Reply:
        for hook in self.hooks:
            if hook["id"] == int(id):
                hook |= request.body
                return 200, {}, _shown(hook)
        return 404, {}, {"message": "Not Found"}

    def _ping(self, request: Request, name: str, id: str) -> Reply:
        hook = next(hook for hook in self.hooks if hook["id"] == int(id))
        self._ids += 1
        code = self.receiver(hook)
        self.deliveries.insert(0, {"id": self._ids, "event": "ping", "status_code": code})
        return 204, {}, None

    def _installed(self, request: Request, repository: str) -> Reply:
        status, extra, answer = self._installation(request, repository)
        return status, extra, answer | ({"events": self.events} if status == 200 else {})

    def _configure(self, request: Request) -> Reply:
        self.app_hook = request.body
        return 200, {}, self.app_hook


def _shown(hook: dict[str, Any]) -> dict[str, Any]:
    """As GitHub shows it: without the secret."""
    return hook | {"config": hook["config"] | {"secret": "********"}}
