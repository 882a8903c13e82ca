"""Behaviour of runnerd.forge.connecting, against a GitHub that has webhooks."""

from __future__ import annotations

import pytest
import trio

from runnerd.forge.client import open_github
from runnerd.forge.connecting import connect, manifest
from runnerd.forge.permissions import EVENTS, OF_APP

from .fake_hooks import HookedGitHub

REPOSITORY, URL, SECRET = "octo-org/hello", "https://ci.example/webhook", "it is a secret"


class Town:
    """A GitHub with webhooks, and whoever joins a repository of it."""

    def __init__(self, key):
        self.server, self.key, self.address = HookedGitHub(), key, ""

    async def join(self, kind="token", *, repository=REPOSITORY, url=URL):
        who = {"app": "7", "private_key": self.key} if kind == "app" else {"token": "ghp_test"}

        async def sleep(seconds):
            await trio.lowlevel.checkpoint()

        async with open_github(self.address, **who, sleep=sleep) as forge:
            found = await connect(forge, repository, kind=kind, url=url, secret=SECRET, sleep=sleep)
        return {finding.about: finding for finding in found}


@pytest.fixture
async def town(app_key):
    town = Town(app_key[0])
    town.server.app = ("7", "our-runner", app_key[1])
    town.server.installed = {"octo-org": 42}
    town.server.granted = {need.name: need.level for need in OF_APP}
    town.server.events = list(EVENTS)
    async with town.server.served() as town.address:
        yield town
    assert town.server.problems == []


async def test_a_webhook_is_made_pinged_and_found_again(town):
    """Once, however often; with our secret, JSON, and the events that repositories are sent."""
    for words in ("made:", "was there"):
        found = await town.join()
        assert words in found["webhook"].found
        assert (found["ping"].verdict, found["ping"].found) == ("good", "a ping was answered 200")
        assert found["Commit statuses: write"].verdict == "good"
        assert not [each for each in found.values() if each.verdict == "problem"]
    [hook] = town.server.hooks
    assert hook["config"] == {"url": URL, "content_type": "json", "secret": SECRET, "insecure_ssl": "0"}
    assert {"push", "pull_request"} <= set(hook["events"])
    assert town.server.statuses == {}


@pytest.mark.parametrize(
    ("code", "words"),
    [(403, "another webhook secret"), (0, "did not reach anybody"), (502, "was answered 502")],
)
async def test_a_ping_that_does_not_arrive_says_why(town, code, words):
    """The daemon has another secret, nobody is there, or something between answers instead."""
    town.server.receiver = lambda hook: code
    ping = (await town.join())["ping"]
    assert ping.verdict == "problem"
    assert words in ping.found
    assert ping.cure


async def test_each_missing_permission_is_named_with_its_cost(town):
    """For a token: learnt by asking, without leaving a status behind."""
    town.server.lacking = {"statuses", "hooks", "permissions"}
    found = await town.join()
    assert found["Commit statuses: write"].verdict == "problem"
    assert found["Administration: read"].verdict == "warning"
    assert "strictest" in found["Administration: read"].found
    assert found["webhook"].verdict == "problem"
    assert URL in found["webhook"].cure


async def test_a_repository_that_is_not_seen_is_all_there_is_to_say(town):
    """Nothing else is asked, and nothing made."""
    found = await town.join(repository="octo-org/none")
    assert list(found) == ["repository"]
    assert found["repository"].verdict == "problem"


async def test_without_an_address_nothing_is_made(town):
    """Nobody could be reached by it."""
    found = await town.join(url="")
    assert found["webhook"].verdict == "problem"
    assert town.server.hooks == []


async def test_an_app_knows_its_permissions_and_events(town):
    """What the installation lacks is named, and the App's one webhook gets our address and secret."""
    town.server.deliveries = [{"id": 1, "event": "ping", "status_code": 200}]
    found = await town.join("app")
    assert not [each for each in found.values() if each.verdict != "good"]
    assert town.server.app_hook["url"] == URL
    assert town.server.app_hook["secret"] == SECRET
    del town.server.granted["checks"]
    del town.server.granted["contents"]
    town.server.events.remove("merge_group")
    found = await town.join("app")
    assert (found["Contents: read"].verdict, found["Checks: write"].verdict) == ("problem", "warning")
    assert "merge_group" in found["events"].found


async def test_an_app_that_is_not_installed_says_where_to(town):
    """The repository is not seen, and the reason is GitHub's as well as ours."""
    town.server.installed = {}
    found = await town.join("app")
    assert found["repository"].verdict == "problem"
    assert "install the App" in found["repository"].cure


def test_the_manifest_asks_for_what_we_need():
    """Every permission of ours, every event, a private App, and our address."""
    made = manifest(URL)
    assert made["hook_attributes"] == {"url": URL, "active": True}
    assert all(made["default_permissions"][need.name] == need.level for need in OF_APP)
    assert (made["public"], set(made["default_events"])) == (False, set(EVENTS))
