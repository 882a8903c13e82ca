"""Behaviour of runnerd.actors.receiver, over real sockets and a real ledger."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from runnerd.actors.receiver import ReceiverActor
from runnerd.forge.signature import sign
from runnerd.messages import DeliveryAccepted, DeliveryHeld
from runnerd.store.ledger import LedgerUnavailable, open_ledger
from runnerd.supervise.mailbox import Mailbox

SECRETS = ("new secret", "old secret")
REPOSITORY = {"id": 1296269, "full_name": "octo-org/hello"}
SENDER = {"id": 583231, "login": "octocat"}
PUSH = {
    "ref": "refs/heads/main",
    "before": "a" * 40,
    "after": "b" * 40,
    "repository": REPOSITORY,
    "sender": SENDER,
}


def side(sha):
    return {"ref": "topic", "sha": sha * 40, "repo": {"id": 1296269}}


PULL = {
    "action": "opened",
    "number": 7,
    "pull_request": {"number": 7, "head": side("c"), "base": side("d")},
    "repository": REPOSITORY,
    "sender": SENDER,
}


class Unwritable:
    """A ledger whose disk is full."""

    async def accept_delivery(self, delivery):
        raise LedgerUnavailable("the disk is full")


class Site:
    """A running receiver, what it stored and what it told the parser."""

    def __init__(self, client, ledger, mailbox):
        self.client, self.ledger, self.mailbox = client, ledger, mailbox

    async def post(self, payload, *, event="push", delivery="d-1", secret=SECRETS[0], **headers):
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        fields = {"content-type": "application/json", "x-hub-signature-256": sign(body, secret)}
        fields |= {"x-github-event": event} if event else {}
        fields |= {"x-github-delivery": delivery} if delivery else {}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/webhook", content=body, headers=fields)

    def hints(self):
        return [self.mailbox._take.receive_nowait() for _ in range(self.mailbox.depth)]


@asynccontextmanager
async def receiving(ledger, capacity=100, **options):
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    mailbox = Mailbox(capacity)
    stop = trio.Event()

    async def listen():
        return listeners

    actor = ReceiverActor(
        listen, ledger=ledger, parser=mailbox, secrets=SECRETS, stop=stop, clock=lambda: 1000.0, **options
    )
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(lambda *, task_status: actor.run(task_status=task_status))
        yield Site(client, ledger, mailbox)
        stop.set()


@pytest.fixture
async def site(tmp_path, nursery):
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await nursery.start(ledger.serve_writes)
        async with receiving(ledger) as site:
            yield site


async def test_a_push_is_durable_before_it_is_acknowledged(site):
    """The delivery stands in the ledger as it came when the sender reads 202, and the parser is told."""
    answer = await site.post(PUSH, authorization="Basic c2VjcmV0", x_github_hook_id="42")
    assert answer.status_code == 202
    assert answer.json() == {"message": "Push webhook received for refs/heads/main", "status": "success"}
    stored = await site.ledger.delivery("d-1")
    assert (stored.event, stored.state, stored.body) == ("push", "pending", json.dumps(PUSH).encode())
    assert (stored.received, stored.repository, stored.hook_id) == (1000.0, "octo-org/hello", "42")
    assert set(stored.headers) == {"user-agent", "x-github-event", "x-github-delivery", "x-github-hook-id"}
    assert site.hints() == [DeliveryAccepted("d-1")]


@pytest.mark.parametrize(
    ("event", "payload", "message"),
    [
        ("pull_request", PULL, "Pull request webhook received and workflow execution started"),
        ("pull_request", PULL | {"action": "labeled"}, "Pull request webhook received (action=labeled)"),
        (
            "workflow_dispatch",
            {"ref": "main", "workflow": "w.yml", "inputs": {}, "repository": REPOSITORY},
            "Workflow dispatch webhook received for refs/heads/main",
        ),
    ],
)
async def test_each_event_has_its_words(site, event, payload, message):
    """The answer says what was received."""
    answer = await site.post(payload, event=event)
    assert (answer.status_code, answer.json()["message"]) == (202, message)


async def test_the_same_delivery_is_stored_once(site):
    """A replay, the same id under another body or from a second hook, is a duplicate and changes nothing."""
    assert (await site.post(PUSH)).status_code == 202
    for payload in (PUSH, PUSH | {"ref": "refs/heads/other"}):
        again = await site.post(payload, x_github_hook_id="43")
        assert (again.status_code, again.json()["status"]) == (200, "duplicate")
    assert (await site.ledger.delivery("d-1")).body == json.dumps(PUSH).encode()
    assert len(site.hints()) == 1


async def test_a_hundred_identical_deliveries_at_once_are_one(site):
    """Whatever arrives in between, exactly one is accepted."""
    statuses = []

    async def one():
        statuses.append((await site.post(PUSH)).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(one)
    assert sorted(statuses) == [200] * 99 + [202]
    assert len(site.hints()) == 1


async def test_the_same_body_under_another_id_is_another_delivery(site):
    """Two dispatches may be equal to the byte."""
    for delivery in ("d-1", "d-2"):
        assert (await site.post(PUSH, delivery=delivery)).status_code == 202


async def test_a_manual_test_without_headers_works_and_is_stored_once(site):
    """The event is inferred from the shape and the id from the bytes."""
    payload = {
        "action": "opened",
        "number": 1,
        "repository": {"full_name": "o/r"},
        "pull_request": {"title": "T"},
    }
    first = await site.post(payload, event=None, delivery=None)
    assert (first.status_code, first.json()["status"]) == (202, "success")
    assert (await site.post(payload, event=None, delivery=None)).json()["status"] == "duplicate"
    [hint] = site.hints()
    stored = await site.ledger.delivery(hint.delivery)
    assert (stored.event, stored.id[:5]) == ("pull_request", "body-")


@pytest.mark.parametrize(
    ("event", "payload", "words"),
    [
        ("ping", {"zen": "Design for failure.", "hook_id": 1}, "pong"),
        ("star", {"action": "created"}, "star starts no workflow"),
        ("no_such_event", {}, "no_such_event starts no workflow"),
        ("push", PUSH | {"deleted": True, "after": "0" * 40}, "deleted"),
        (None, {"action": "created"}, "without a known shape"),
    ],
)
async def test_what_starts_nothing_is_acknowledged_and_recorded(site, event, payload, words):
    """It ends in the ledger as ignored with the reason (I3), and no parser is bothered."""
    answer = await site.post(payload, event=event, delivery="d-9")
    assert (answer.status_code, answer.json()["status"]) == (200, "acknowledged")
    assert words in answer.json()["message"]
    stored = await site.ledger.delivery("d-9")
    assert stored.state == "ignored"
    assert stored.reason
    assert site.hints() == []


MALFORMED = {
    "not JSON": ("push", b"{"),
    "a list": ("push", b"[]"),
    "deep": ("push", b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "huge number": ("push", b'{"a":' + b"9" * 5000 + b"}"),
    "lone surrogate": ("push", b'{"ref": "\\ud800"}'),
    "broken UTF-8": ("push", b'{"ref": "\xff"}'),
    "no repository": ("push", {k: v for k, v in PUSH.items() if k != "repository"}),
    "wrong type": ("push", PUSH | {"ref": 1}),
    "wrong id": ("push", PUSH | {"repository": REPOSITORY | {"id": "1"}}),
    "traversal": ("push", PUSH | {"repository": REPOSITORY | {"full_name": "../x"}}),
    "other event": ("pull_request", PUSH),
    "no ping": ("ping", PUSH),
    "event with spaces": ("pu sh", PUSH),
    "form": ("push", b"payload=%7B%7D"),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_delivery_is_refused_and_not_stored(site, name):
    """Signed or not, what cannot be understood is answered 400 with one sentence."""
    event, payload = MALFORMED[name]
    answer = await site.post(payload, event=event)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert await site.ledger.delivery("d-1") is None
    assert site.hints() == []


async def test_unsigned_and_wrongly_signed_deliveries_are_told_apart(site):
    """401 without a signature, 403 with a wrong one, and either secret during a rotation."""
    assert (await site.post(PUSH, x_hub_signature_256="")).status_code == 401
    assert (await site.post(PUSH, secret="stolen")).status_code == 403
    assert (await site.post(PUSH, secret=SECRETS[1])).status_code == 202


async def test_a_large_delivery_is_stored(site):
    """A payload of megabytes is read aside of the loop."""
    assert (await site.post(PUSH | {"commits": ["x" * 1000] * 3000})).status_code == 202


async def test_a_ledger_that_cannot_be_written_is_a_503():
    """Nothing is promised that was not stored; the sender is told when to come back."""
    async with receiving(Unwritable()) as site:
        answer = await site.post(PUSH)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert site.hints() == []


async def test_a_full_mailbox_loses_only_the_hint(tmp_path, nursery):
    """The parser looks into the ledger by itself, so a delivery is accepted whether it is told or not."""
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await nursery.start(ledger.serve_writes)
        async with receiving(ledger, capacity=1) as site:
            for number in range(3):
                assert (await site.post(PUSH, delivery=f"d-{number}")).status_code == 202
            assert len(await ledger.pending_deliveries(10)) == 3


@pytest.mark.parametrize("secrets", [(), ("",), ("good", "")])
def test_no_receiver_without_a_secret(secrets):
    """An empty secret would accept everybody."""
    with pytest.raises(ValueError, match="secret"):
        ReceiverActor(None, ledger=None, parser=Mailbox(1), secrets=secrets, stop=trio.Event())


async def test_a_body_that_came_before_is_held_where_the_forge_can_be_asked(tmp_path, nursery):
    """Under a new id it is acknowledged and durable, and the reconciler hears of it, not the parser."""
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await nursery.start(ledger.serve_writes)
        reconciler = Mailbox(10)
        async with receiving(ledger, reconciler=reconciler) as site:
            assert (await site.post(PUSH)).status_code == 202
            assert (await site.post(PUSH, delivery="d-2")).status_code == 202
            assert (await site.post(PUSH, delivery="d-2")).json()["status"] == "duplicate"
            assert site.hints() == [DeliveryAccepted("d-1")]
            assert await reconciler.receive() == DeliveryHeld("d-2")
            assert (await ledger.delivery("d-2")).state == "held"


async def test_a_body_that_came_before_runs_with_a_remark_where_nobody_can_be_asked(site):
    """Without a forge to ask nothing is lost, and the ledger says what was not checked."""
    await site.post(PUSH)
    assert (await site.post(PUSH, delivery="d-2")).status_code == 202
    assert "as delivery d-1" in (await site.ledger.delivery("d-2")).remark
    assert len(site.hints()) == 2


async def test_two_hooks_with_one_event_are_one_delivery(site):
    """A repository's webhook and an App's send the same id: the second is a duplicate, whatever its body."""
    assert (await site.post(PUSH, x_github_hook_id="1")).status_code == 202
    again = await site.post(PUSH | {"installation": {"id": 9}}, x_github_hook_id="2")
    assert (again.status_code, again.json()["status"]) == (200, "duplicate")
    assert site.hints() == [DeliveryAccepted("d-1")]
    assert (await site.ledger.delivery("d-1")).hook_id == "1"


async def test_pages_are_served_beside_the_webhook_where_there_are_any(tmp_path, nursery):
    """With somebody to give them, and not without; deliveries are taken either way."""

    async def page(run, job, seal):
        return f"page of {run}" if seal == "s" else None

    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await nursery.start(ledger.serve_writes)
        for given, status in ((page, 200), (None, 404)):
            async with receiving(ledger, page=given) as site:
                answer = await site.client.get("/runs/5/s")
                assert answer.status_code == status
                assert ("page of 5" in answer.text) == (status == 200)
                assert (await site.post(PUSH, delivery=f"d-{status}")).status_code in (200, 202)
