"""`runnerd connect`: what it says, and its exit status."""

import json
import threading
from collections.abc import Iterator

import pytest
import trio

from ..forge.fake_hooks import HookedGitHub

URL = "https://ci.example"


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[HookedGitHub]:
    """A GitHub beside this process, which the configuration leads to."""
    server = HookedGitHub()
    ready, ends = threading.Event(), []

    async def main() -> None:
        stop, token = trio.Event(), trio.lowlevel.current_trio_token()
        ends.append(lambda: trio.from_thread.run_sync(stop.set, trio_token=token))
        async with server.served() as address:
            monkeypatch.setenv("RUNNERD_FORGE_API", address)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(10)
    monkeypatch.setenv("GITHUB_TOKEN", server.token)
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", "it is a secret")
    yield server
    ends[0]()
    thread.join()


def test_a_repository_is_connected(invoke, github: HookedGitHub) -> None:
    """Exit 0, a line for each finding, and the webhook at the public address."""
    result = invoke("connect", "octo-org/hello", "--url", URL)
    assert result.exit_code == 0, result.output
    assert f"good     webhook: made: {URL}/webhook" in result.output
    assert github.hooks[0]["config"]["url"] == f"{URL}/webhook"
    assert "it is a secret" not in result.output


def test_what_is_missing_is_a_problem(invoke, github: HookedGitHub) -> None:
    """Exit 1 and, as JSON, what, why it matters and its cure."""
    github.receiver = lambda hook: 403
    result = invoke("connect", "octo-org/hello", "--url", URL, "--json")
    assert result.exit_code == 1
    [ping] = [each for each in json.loads(result.output) if each["about"] == "ping"]
    assert ping["verdict"] == "problem"
    assert ping["cure"]


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        (("octo-org/hello",), {"GITHUB_TOKEN": "t"}, "webhook secret"),
        (("octo-org/hello",), {"GITHUB_WEBHOOK_SECRET": "s"}, "nobody to speak as"),
        (("hello",), {"GITHUB_TOKEN": "t", "GITHUB_WEBHOOK_SECRET": "s"}, "write OWNER/REPO"),
        (("a/b", "--url", "ci.example"), {"GITHUB_TOKEN": "t", "GITHUB_WEBHOOK_SECRET": "s"}, "https://"),
        (("--app",), {}, "give --url"),
    ],
)
def test_what_it_cannot_begin_with_is_usage(invoke, arguments, environ, words: str) -> None:
    """Exit 2 with one sentence, before anybody is asked."""
    result = invoke("connect", *arguments, **environ)
    assert result.exit_code == 2
    assert words in result.output


def test_the_manifest_of_an_app(invoke) -> None:
    """As JSON for GitHub, with our address in it."""
    result = invoke("connect", "--app", "--url", URL, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["hook_attributes"]["url"] == f"{URL}/webhook"


def test_only_github_has_apps(invoke) -> None:
    """Elsewhere the command says so, and what to do."""
    result = invoke("connect", "--app", "--url", URL, RUNNERD_FORGE_KIND="gitea")
    assert (result.exit_code, "give it a token" in result.output) == (2, True)
