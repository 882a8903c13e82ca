"""The client of the remote Firecracker service, and what it does not believe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runnerd.machines.fcctl.service import (
    NotThere,
    Service,
    ServiceDenied,
    ServiceTrouble,
    expiry,
    open_service,
    token_trouble,
)


async def test_life_of_a_machine(service: Service, fake: Any) -> None:
    """A machine is asked for, comes up, runs a text and goes; both spellings of the time are sent."""
    await service.health()
    made = await service.create("focal", "mine")
    assert not made.ready
    while not (await service.machine(made.name)).ready:
        pass
    fake.vms[made.name].refusals = 0
    ran = await service.run(made.name, "echo hi; exit 3", seconds=7.0)
    assert (ran.exit_code, ran.stdout) == (3, "hi\n")
    assert fake.timeouts == [(7, 7000)]
    assert [each.name for each in (await service.machines()).vms] == [made.name]
    await service.remove(made.name)
    await service.remove(made.name)
    with pytest.raises(NotThere):
        await service.machine(made.name)


async def test_absent_status_is_no_status(service: Service, fake: Any) -> None:
    """An answer without an exit status is never taken for success."""
    made = await service.create("focal", "mine")
    fake.vms[made.name].refusals = 0
    fake.fault, fake.faults["POST /api/llm/execute"] = "no status", 1
    assert (await service.run(made.name, "true", seconds=5.0)).exit_code is None


@pytest.mark.parametrize("fault", ["refuse", "garbage", "drop", "error"])
async def test_trouble_is_one_exception(service: Service, fake: Any, fault: str) -> None:
    """A refusal, a page for an answer, a lost answer and an `error` beside a status 0 are all trouble."""
    made = await service.create("focal", "mine")
    fake.vms[made.name].refusals = 0
    fake.fault, fake.faults["POST /api/llm/execute"] = fault, 1
    with pytest.raises(ServiceTrouble, match="POST /api/llm/execute at http://127"):
        await service.run(made.name, "true", seconds=5.0)


async def test_snapshot_without_a_name_is_refused(service: Service, fake: Any) -> None:
    """No name is invented for a snapshot the service did not name; one that it names can be gone back to."""
    made = await service.create("focal", "mine")
    assert await service.snapshot(made.name, "before step 1") == "snap-1"
    await service.roll_back(made.name, "snap-1")
    assert fake.rollbacks == [(made.name, "snap-1")]
    fake.fault, fake.faults[f"POST /api/vms/{made.name}/snapshots"] = "nameless", 1
    with pytest.raises(ServiceTrouble, match="names no snapshot"):
        await service.snapshot(made.name, "before step 2")


async def test_machine_without_a_name_is_refused(service: Service, fake: Any) -> None:
    """A machine that cannot be asked for again is none."""
    fake.fault, fake.faults["POST /api/vms"] = "nameless", 1
    with pytest.raises(ServiceTrouble, match="names no machine"):
        await service.create("focal", "mine")


async def test_wrong_token_is_said_so(served: tuple[Any, str]) -> None:
    """A refused token is told apart from a service in trouble."""
    async with open_service(served[1], "other") as service:
        with pytest.raises(ServiceDenied, match="refuses the token: 401 invalid token"):
            await service.machines()


async def test_absent_service_is_trouble() -> None:
    """Nobody listening is trouble that names the address."""
    async with open_service("http://127.0.0.1:1", None) as service:
        with pytest.raises(ServiceTrouble, match=r"GET /health at http://127\.0\.0\.1:1"):
            await service.health()


def test_time_of_a_token(web_token: Callable[[float], str]) -> None:
    """A token says when it runs out, and it is said a day ahead; what is no such token says nothing."""
    token = web_token(1_000_000.0)
    assert expiry(token) == 1_000_000.0
    assert token_trouble(token, 1_000_000.0 - 86401) == ""
    assert "runs out in 2.0 hours: get a new one" in token_trouble(token, 1_000_000.0 - 7200)
    assert "ran out 3 days ago" in token_trouble(token, 1_000_000.0 + 3 * 86400)
    for odd in ("opaque", "a.b.c", "a.e30.c", "a.W10.c", "a..c", None):
        assert token_trouble(odd, 5.0) == ""
