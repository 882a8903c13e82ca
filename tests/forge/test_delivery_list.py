"""Behaviour of runnerd.forge.delivery_list, over HTTP with the real client."""

from __future__ import annotations

import json

import pytest

from runnerd.forge.client import open_github
from runnerd.forge.delivery_list import APP, Attempt, DeliveryList, gap, missing, retention, sent
from runnerd.forge.protocol import ForgeDenied, ForgeUnavailable

from .fake_deliveries import FakeDeliveries

DAY = 86400.0
PAYLOAD = {"ref": "refs/heads/main", "ü": [1.5, None, 2**63 - 1]}


@pytest.fixture
async def github():
    fake = FakeDeliveries()
    async with fake.served() as address, open_github(address, "a token") as client:
        yield fake, client


async def no_pause(seconds):
    pass


async def test_the_list_is_read_back_to_a_moment(github):
    """Page after page, and no further than needed."""
    fake, client = github
    for number in range(100):
        fake.delivered(f"g{number}", "push", PAYLOAD, 1000.0 + number)
    found = await DeliveryList(client).since(APP, 1055.0)
    assert [attempt.guid for attempt in found] == [f"g{number}" for number in range(99, 54, -1)]
    assert fake.asked == ["/app/hook/deliveries"] * 2


async def test_only_hooks_that_lead_here_are_lists_of_ours(github):
    """Other services' webhooks, and those switched off, are nobody's business here."""
    fake, client = github
    fake.hooks += [
        {"id": 2, "active": True, "config": {"url": "https://chat.example/hook"}},
        {"id": 3, "active": False, "config": {"url": "https://ci.example/webhook"}},
        {"id": 4, "active": True, "config": {"url": "https://other.example/webhook"}},
    ]
    names = [source.name for source in await DeliveryList(client).hooks("octo/hello")]
    assert names == ["octo/hello#1", "octo/hello#4"]
    exact = DeliveryList(client, public_url="https://ci.example/")
    assert [source.name for source in await exact.hooks("octo/hello")] == ["octo/hello#1"]


async def test_a_payload_comes_with_the_lists_own_id(github):
    """What was sent is had whole; its identity is the list's word, not the old request's."""
    fake, client = github
    fake.delivered("g1", "push", PAYLOAD, 1000.0)
    lists = DeliveryList(client)
    [attempt] = await lists.since(APP, 0.0)
    missed = await lists.payload(APP, attempt)
    assert json.loads(missed.body) == PAYLOAD
    assert missed.headers == {"x-github-event": "push", "x-github-delivery": "g1"}
    fake.kept[0]["payload"] = None
    assert await lists.payload(APP, attempt) is None


async def test_what_is_no_list_is_no_empty_list(github):
    """A refusal and an answer of another shape are told, so that nothing counts as read."""
    fake, client = github
    fake.denied = True
    with pytest.raises(ForgeDenied):
        await DeliveryList(client).since(APP, 0.0)
    fake.denied = False
    fake.delivered("g1", "push", PAYLOAD, 1.0, id="not a number")
    with pytest.raises(ForgeUnavailable, match="not as documented"):
        await DeliveryList(client).since(APP, 0.0)


def attempt(guid, at, event="push", id=1):
    return Attempt(id=id, guid=guid, delivered_at=at, event=event)


def test_the_first_attempt_of_each_missing_delivery_oldest_first():
    """Grouped by guid; what is known, and what can start nothing, is not fetched."""
    attempts = [
        attempt("b", "2026-01-01T00:00:09Z", id=9),
        attempt("b", "2026-01-01T00:00:02Z", id=2),
        attempt("a", "2026-01-01T00:00:03Z", id=3),
        attempt("known", "2026-01-01T00:00:01Z"),
        attempt("star", "2026-01-01T00:00:01Z", event="star"),
        attempt("broken", "yesterday", id=7),
    ]
    found = missing(attempts, ["a", "b", "star", "broken"])
    assert [(each.guid, each.id) for each in found] == [("broken", 7), ("b", 2), ("a", 3)]
    assert sent(attempts, "b")
    assert not sent(attempts, "c")


def test_a_gap_is_the_time_that_is_forgotten():
    """What happened while we were away and longer ago than the forge remembers."""
    assert gap(0.0, 2 * DAY, 3 * DAY) is None
    assert gap(0.0, 5 * DAY, 3 * DAY) == (0.0, 2 * DAY)
    assert retention("https://api.github.com") == 3 * DAY
    assert retention("https://ghe.example/api/v3") == 7 * DAY
