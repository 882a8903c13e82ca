"""Serves `/livez`, `/readyz` and `/metrics`, and asks whoever knows whether the daemon is ready."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from runnerd import log
from runnerd.messages import DescribePool, PoolDescription
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply
from runnerd.web import guard, health
from runnerd.web.health import Problem
from runnerd.web.listeners import Listen

_log = log.get("health")

Check = Callable[[], Awaitable[None]]
"""Returns when all is well; raises an error whose text says what is not."""


class NotReady(Exception):
    """Something without which no job can run is missing; the sentence says what."""


class HealthActor:
    """Answers whoever watches. `checks` by name are asked at once, all of them, for each `/readyz`."""

    name = "health"

    def __init__(self, listen: Listen, *, checks: Mapping[str, Check], stop: trio.Event) -> None:
        self._listen = listen
        self._checks = dict(checks)
        self._stop = stop

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` is set. Raises OSError when the listeners cannot be opened."""
        listeners = await self._listen()
        await guard.serve(
            health.app(self.problems),
            listeners,
            stop=self._stop,
            max_connections=32,
            grace=1.0,
            task_status=task_status,
        )

    async def problems(self) -> list[Problem]:
        """Ask every check; returns what is wrong, in the order of the checks."""
        found: dict[str, Problem] = {}

        async def ask(name: str, check: Check) -> None:
            try:
                await check()
            except Exception as error:  # whatever a check raises is its answer
                _log.warning("not_ready", check=name, error=str(error))
                found[name] = Problem(name, str(error) or type(error).__name__)

        async with trio.open_nursery() as nursery:
            for name, check in self._checks.items():
                nursery.start_soon(ask, name, check)
        return [found[name] for name in self._checks if name in found]


def pool_check(pool: Mailbox[Any], timeout: float = 2.0) -> Check:
    """Build the check that the pool has room for a machine, and an image whose machines come up."""

    async def check() -> None:
        reply: Reply[PoolDescription] = Reply()
        if not pool.offer(DescribePool(reply)):
            raise NotReady("the machine pool takes no questions: it is overloaded or ending")
        with trio.move_on_after(timeout):
            description = await reply.wait()
            if description.problem:
                raise NotReady(description.problem)
            return
        raise NotReady(f"the machine pool did not answer within {timeout:g} seconds")

    return check
