"""The daemon is killed, fifty deliveries fail, and the next start has them all from GitHub's list."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trio

from ..forge.fake_deliveries import FakeDeliveries
from .conftest import PROCESSES, Daemon, Sample, push, wait_for

pytestmark = pytest.mark.system

QUIET = "on: {push: {branches: [another]}}\njobs: {a: {runs-on: ubuntu-latest, steps: [{run: 'true'}]}}\n"


@contextmanager
def running(fake: FakeDeliveries) -> Iterator[str]:
    """Serve it from a thread for the length of a block; yields its address."""
    ready, tokens, stop = threading.Event(), [], trio.Event()

    async def main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        async with fake.served():
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    try:
        assert ready.wait(10), "the fake forge does not serve"
        yield fake.address
    finally:
        trio.from_thread.run_sync(stop.set, trio_token=tokens[0])
        thread.join()


def test_an_outage_of_fifty_deliveries_is_made_good(
    make_daemon: Callable[..., Daemon], sample: Sample
) -> None:
    """Each is planned once, in its order, and comes again as a duplicate."""
    sha = sample.workflow(QUIET)
    body = push(sha)
    fake = FakeDeliveries("local/repo", "http://127.0.0.1:3000/webhook")
    with running(fake) as address:
        settings = f'\n[forge]\napi = {json.dumps(address)}\ntoken = "a token"\n'
        daemon = make_daemon(PROCESSES, settings=settings).start().wait_ready()
        wait_for(lambda: daemon.rows("SELECT * FROM intake"), "the first reading of the list")
        daemon.kill()
        for number in range(50):
            fake.delivered(f"g{number:02}", "push", json.loads(body), time.time())
        daemon.start().wait_ready()
        every = "SELECT id, state, reason FROM deliveries ORDER BY received, id"
        wait_for(lambda: len(daemon.rows(every)) == 50, "fifty deliveries in the ledger")
        daemon.wait_settled()
        rows = daemon.rows(every)
        assert [row["id"] for row in rows] == [f"g{number:02}" for number in range(50)]
        assert {row["state"] for row in rows} == {"ignored"}
        assert {row["reason"] for row in rows} == {"no workflow is started by this event"}
        status, answer = daemon.post(body, delivery="g07")
        assert (status, answer["status"]) == (200, "duplicate")
