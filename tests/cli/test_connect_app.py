"""Making an App in the browser: the form, the way back, and the key on disk."""

import html
import http.server
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
import typer

from runnerd.cli.connect_app import make

MANIFEST = {"name": "runnerd", "hook_attributes": {"url": 'https://ci.example/webhook?a="b"'}}


class Conversions(http.server.BaseHTTPRequestHandler):
    """Gives an App for the code `c0de`, once it was told what to answer."""

    answer: ClassVar[Any] = {"id": 7, "slug": "our-runner", "pem": "the key"}
    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        type(self).asked.append(self.path)
        data = json.dumps(self.answer).encode()
        self.send_response(201 if "c0de" in self.path else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Conversions) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def browse(page: str, code: str, seen: dict[str, Any]) -> None:
    """Do what a browser and GitHub do: some mistakes first, then the whole way."""
    form = get(page)[1]
    seen["action"] = html.unescape(re.search(r'action="([^"]+)"', form)[1])  # type: ignore[index]
    seen["manifest"] = json.loads(html.unescape(re.search(r'value="([^"]+)"', form)[1]))  # type: ignore[index]
    state = parse_qs(urlsplit(seen["action"]).query)["state"][0]
    seen["refused"] = [
        get(f"{page}made?code={code}&state=guess")[0],
        get(f"{page}made?code=../x&state={state}")[0],
        get(f"{page}other")[0],
    ]
    seen["done"] = get(f"{page}made?code={code}&state={state}")[0]


def made(api: str, folder: Path, code: str = "c0de") -> tuple[dict[str, Any], dict[str, Any]]:
    seen: dict[str, Any] = {}
    threads: list[threading.Thread] = []

    def show(page: str) -> None:
        threads.append(threading.Thread(target=browse, args=(page, code, seen)))
        threads[0].start()

    start: Callable[[], dict[str, Any]] = lambda: make(  # noqa: E731
        MANIFEST, server="https://github.com", api=api, organization="octo-org", folder=folder, show=show
    )
    try:
        return start(), seen
    finally:
        for thread in threads:
            thread.join()


def test_the_app_is_made_and_its_key_kept(api: str, tmp_path: Path) -> None:
    """The form leads to the organization's page with our manifest; only its own way back counts."""
    app, seen = made(api, tmp_path / "secrets")
    assert seen["action"].startswith("https://github.com/organizations/octo-org/settings/apps/new?state=")
    assert seen["manifest"]["hook_attributes"] == MANIFEST["hook_attributes"]
    assert urlsplit(seen["manifest"]["redirect_url"]).hostname == "127.0.0.1"
    assert (seen["refused"], seen["done"]) == ([403, 400, 404], 200)
    key = Path(app["key"])
    assert (app["id"], app["slug"], key.read_text()) == (7, "our-runner", "the key")
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_there_is_not_written_over(api: str, tmp_path: Path) -> None:
    """Before anything is served, the command says which file is in the way."""
    (tmp_path / "app.pem").write_text("an older key")
    with pytest.raises(typer.Exit) as caught:
        made(api, tmp_path)
    assert caught.value.exit_code == 2
    assert (tmp_path / "app.pem").read_text() == "an older key"


def test_a_github_that_gives_no_key_leaves_nothing(api: str, tmp_path: Path) -> None:
    """An expired code is a failure with a sentence, and no file."""
    with pytest.raises(typer.Exit) as caught:
        made(api, tmp_path, code="expired")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "app.pem").exists()
