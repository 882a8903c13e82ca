"""Behaviour of runnerd.actors.receiver with GitHub's own example payloads, over real sockets."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import trio

from runnerd.actors.receiver import ReceiverActor
from runnerd.forge.signature import sign
from runnerd.store.ledger import open_ledger
from runnerd.supervise.mailbox import Mailbox

EXAMPLES = Path(__file__).parents[3] / "shared" / "data" / "webhooks" / "octokit"
SECRET = "a secret"


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the reference payloads are not here")
async def test_every_official_payload_is_taken_and_recorded(tmp_path):
    """Each is durable and pending for the parser, or ignored with a reason; sent again it is a duplicate."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    parser, stop = Mailbox(1000), trio.Event()

    async def listen():
        return listeners

    async with open_ledger(tmp_path / "ledger.db") as ledger, trio.open_nursery() as nursery:
        await nursery.start(ledger.serve_writes)
        receiver = ReceiverActor(listen, ledger=ledger, parser=parser, secrets=(SECRET,), stop=stop)
        await nursery.start(lambda *, task_status: receiver.run(task_status=task_status))
        started = 0
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            for number, path in enumerate(sorted(EXAMPLES.glob("[!_]*/*.json"))):
                body = path.read_bytes()
                headers = {
                    "content-type": "application/json",
                    "x-hub-signature-256": sign(body, SECRET),
                    "x-github-event": path.parent.name,
                    "x-github-delivery": f"g-{number}",
                }
                answer = await client.post("/webhook", content=body, headers=headers)
                stored = await ledger.delivery(f"g-{number}")
                assert stored.body == body
                if answer.status_code == 202:
                    assert (answer.json()["status"], stored.state) == ("success", "pending")
                    assert stored.repository == json.loads(body)["repository"]["full_name"]
                    started += 1
                else:
                    assert (answer.status_code, stored.state) == (200, "ignored"), (path, answer.text)
                    assert stored.reason
                again = await client.post("/webhook", content=body, headers=headers)
                assert (again.status_code, again.json()["status"]) == (200, "duplicate")
        assert parser.depth == started > 100
        stop.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
        ledger.close()
