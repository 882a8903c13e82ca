"""Makes a GitHub App in the browser: a page that hands in our manifest, and the key that GitHub gives back.

The page listens on the loopback interface until GitHub has sent the browser back to it.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from runnerd.cli.output import Code, fail

KEY = "app.pem"
ANSWER_LIMIT = 1 << 20
TIMEOUT = 30.0


def make(
    manifest: dict[str, Any],
    *,
    server: str,
    api: str,
    organization: str,
    folder: Path,
    show: Callable[[str], object],
) -> dict[str, Any]:
    """Serve the page, wait for GitHub's answer, and keep the App's key in `folder` for its owner alone.

    `show` is given the page's address. Returns `id`, `slug` and the key's path. Ends the command with a
    sentence when there is a key already, or GitHub gives none.
    """
    path = folder / KEY
    if path.exists():
        fail(f"{path} is the key of an App that was made before: move it away first")
    page = _Page(manifest, f"{server}{_owner(organization)}/settings/apps/new")
    with page.listening() as address:
        show(address)
        code = page.code()
    app = _converted(f"{api}/app-manifests/{code}/conversions")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(app["pem"])
    return {"id": app["id"], "slug": app["slug"], "key": str(path)}


def _owner(organization: str) -> str:
    return f"/organizations/{quote(organization, safe='')}" if organization else ""


class _Page:
    """One form for the browser, and the place where GitHub sends it back to."""

    def __init__(self, manifest: dict[str, Any], target: str) -> None:
        self._manifest = manifest
        self._target = target
        self._state = secrets.token_urlsafe(24)
        self._code = ""
        self._server: HTTPServer | None = None

    @contextlib.contextmanager
    def listening(self) -> Any:
        page = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10.0

            def do_GET(self) -> None:
                status, text = page.answer(self.path)
                data = f"<!doctype html><meta charset=utf-8><title>runnerd</title>{text}".encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Handler) as self._server:
            yield f"http://127.0.0.1:{self._server.server_port}/"

    def code(self) -> str:
        """Answer browsers until one brings GitHub's code."""
        assert self._server is not None
        while not self._code:
            self._server.handle_request()
        return self._code

    def answer(self, path: str) -> tuple[int, str]:
        """Status and page for a path; what does not come from our own form is refused."""
        parts = urlsplit(path)
        if parts.path == "/":
            assert self._server is not None
            back = f"http://127.0.0.1:{self._server.server_port}/made"
            text = html.escape(json.dumps(self._manifest | {"redirect_url": back}))
            action = html.escape(f"{self._target}?state={self._state}")
            return 200, (
                f'<form action="{action}" method="post"><input type="hidden" name="manifest" value="{text}">'
                "<p>GitHub will show the App that runnerd wants to be, and ask for its name."
                '<p><button type="submit">Go to GitHub</button></form>'
            )
        if parts.path != "/made":
            return 404, "<p>There is no such page."
        query = parse_qs(parts.query)
        code, state = query.get("code", [""])[0], query.get("state", [""])[0]
        if not secrets.compare_digest(state.encode(), self._state.encode()):
            return 403, "<p>This does not come from the form of this command."
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", code):
            return 400, "<p>GitHub sent no code."
        self._code = code
        return 200, "<p>Done: go back to the terminal."


def _converted(url: str) -> dict[str, Any]:
    """Give GitHub its code back for the App's number and key."""
    request = urllib.request.Request(url, data=b"", method="POST")
    request.add_header("Accept", "application/vnd.github+json")
    request.add_header("User-Agent", "runnerd-connect")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            app = json.loads(answer.read(ANSWER_LIMIT))
        if isinstance(app["id"], int) and isinstance(app["slug"], str) and isinstance(app["pem"], str):
            return dict(app)
    except urllib.error.HTTPError as refused:
        refused.close()
        fail(f"GitHub did not give the App's key ({refused.code}): run the command again", Code.NOT_GREEN)
    except (OSError, ValueError, LookupError, TypeError) as error:
        why = type(error).__name__
        fail(f"GitHub did not give the App's key ({why}): run the command again", Code.NOT_GREEN)
    fail("GitHub's answer has no App in it: run the command again", Code.NOT_GREEN)
