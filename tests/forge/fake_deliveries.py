"""A GitHub that has webhooks and remembers what it delivered: list, pages by cursor, payloads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import trio

from runnerd.web import guard

PAGE = 30
"""Smaller than what is asked for, so that there are pages."""


class FakeDeliveries:
    """The lists of one App and of the hooks of some repositories."""

    def __init__(self, repository: str = "octo/hello", url: str = "https://ci.example/webhook") -> None:
        self.repository = repository
        self.hooks: list[dict[str, Any]] = [{"id": 1, "active": True, "config": {"url": url}}]
        self.kept: list[dict[str, Any]] = []
        """Oldest first; each with its `payload`."""
        self.asked: list[str] = []
        self.down = False
        self.denied = False
        self.address = ""

    def delivered(
        self, guid: str, event: str, payload: Any, at: float, *, code: int = 502, **fields: Any
    ) -> dict[str, Any]:
        """Remember an attempt."""
        attempt = {
            "id": 1000 + len(self.kept),
            "guid": guid,
            "delivered_at": datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z"),
            "redelivery": False,
            "duration": 0.1,
            "status": "OK" if code < 300 else "failed to connect",
            "status_code": code,
            "event": event,
            "action": payload.get("action") if isinstance(payload, dict) else None,
            "installation_id": None,
            "repository_id": 5,
            "payload": payload,
            **fields,
        }
        self.kept.append(attempt)
        return attempt

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Serve it on a free port for the length of a block; yields the API's address."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        stop = trio.Event()
        self.address = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(guard.serve, self, listeners, stop=stop))
            try:
                yield self.address
            finally:
                nursery.cancel_scope.cancel()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path, query = scope["path"], parse_qs(scope["query_string"].decode())
        self.asked.append(path)
        headers: dict[str, str] = {}
        answer: Any
        if self.down:
            status, answer = 503, {"message": "unavailable"}
        elif self.denied:
            status, answer = 403, {"message": "Resource not accessible by personal access token"}
        else:
            status, answer = self._answer(path, query, headers)
        body = json.dumps(answer).encode()
        fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        fields += [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> tuple[int, Any]:
        place = f"/repos/{self.repository}/hooks"
        if path == place:
            return 200, self.hooks
        for start in ("/app/hook/deliveries", f"{place}/1/deliveries"):
            if path == start:
                newest = self.kept[::-1]
                begin = int(query.get("cursor", ["0"])[0])
                page = newest[begin : begin + PAGE]
                if begin + PAGE < len(newest):
                    after = f"{self.address}{start}?per_page=100&cursor={begin + PAGE}"
                    headers["link"] = f'<{after}>; rel="next"'
                return 200, [{k: v for k, v in each.items() if k != "payload"} for each in page]
            if path.startswith(f"{start}/"):
                for each in self.kept:
                    if each["id"] == int(path.rpartition("/")[2]) and each["payload"] is not None:
                        request = {
                            "headers": {"X-GitHub-Event": each["event"], "X-GitHub-Delivery": "another"},
                            "payload": each["payload"],
                        }
                        return 200, {**each, "request": request, "response": {}}
        return 404, {"message": "Not Found"}
