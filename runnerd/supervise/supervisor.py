"""Keeps actors alive, gives up loudly, and stops them in order.

Sinks start first and drain last, so that nothing arrives before, or after, somebody can take it.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import trio

from runnerd import log, metrics

_log = log.get("supervisor")

Jitter = Callable[[float, float], float]
"""A number between two, as `random.uniform` gives it."""


class Actor(Protocol):
    """One loop that owns its state and reads one mailbox."""

    name: str

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until the mailbox is closed and empty; calls `started()` once it can serve."""
        ...


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How much an actor may crash, and how long it may take; times in seconds."""

    intensity: int = 5
    """Crashes within `period` that are survived; one more and the supervisor gives up."""
    period: float = 60.0
    backoff_min: float = 0.1
    """Pause before the first restart; doubles with each crash within `period`."""
    backoff_max: float = 10.0
    start_timeout: float = 30.0
    """From `run` to `started()`."""
    drain_timeout: float = 20.0
    """From `close` to the actor's end; then it is cancelled."""


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """One place in the list of actors."""

    name: str
    make: Callable[[], Actor]
    """A new actor, for the start and for each restart: no state survives a crash."""
    close: Callable[[], None]
    """Closes what the actor reads, so that it ends when it has served what is queued. Called once."""
    policy: RestartPolicy = RestartPolicy()


class StartFailed(Exception):
    """An actor did not come up when the daemon started; the cause says why."""


class GaveUp(Exception):
    """An actor crashed more often than its policy allows; the cause is its last crash."""


def sole(error: BaseException) -> BaseException:
    """Take the one error out of the groups that nurseries put around it; several stay a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def backoff(crashes: int, policy: RestartPolicy, jitter: Jitter) -> float:
    """Seconds to wait after so many crashes within the period: doubling, bounded, spread by a fifth."""
    # The exponent is bounded too: intensity is configured, and a float would overflow.
    pause = policy.backoff_min * 2.0 ** min(crashes - 1, 64)
    return min(policy.backoff_max, pause) * jitter(0.8, 1.2)


async def supervise(
    children: Sequence[Child],
    *,
    stop: trio.Event,
    jitter: Jitter = random.uniform,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Start the children in order, keep them running until `stop`, drain them in reverse order.

    `started()` is called when all of them serve. A crashed actor is made anew after a pause. Raises
    `StartFailed` when one does not come up at first, and `GaveUp` when one crashes too often; the others
    are cancelled then. When `stop` comes during the start, what serves already is drained.
    """
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        nursery.cancel_scope.cancel(reason=str(error))

    keepers = [_Keeper(child, jitter, fail) for child in children]
    until_stop = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_at, stop, until_stop)
        try:
            with until_stop:
                for keeper in keepers:
                    await nursery.start(keeper.run)
                task_status.started()
                await trio.sleep_forever()
        except StartFailed as error:
            fail(error)
        else:
            for keeper in reversed(keepers):
                await keeper.drain()
    if failures:
        raise failures[0]


async def _cancel_at(stop: trio.Event, scope: trio.CancelScope) -> None:
    await stop.wait()
    scope.cancel(reason="told to stop")


class _Keeper:
    """Keeps one child: all its restarts, and its end."""

    def __init__(self, child: Child, jitter: Jitter, fail: Callable[[Exception], None]) -> None:
        self._child = child
        self._jitter = jitter
        self._fail = fail
        self._scope = trio.CancelScope()
        self._done = trio.Event()
        self._crashes: deque[float] = deque()
        self._closing = False
        self._up: trio.TaskStatus[None] | None = None
        """Whom to tell that the child serves for the first time; None once that is done."""
        self._served = False

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the child until it was drained; `started()` when it first serves."""
        self._up = task_status
        try:
            with self._scope:
                await self._keep()
        except StartFailed:
            raise
        except BaseExceptionGroup as group:
            # Cancelling found an actor that failed at its cleanup: its crash is told, not raised.
            _, crashed = group.split(trio.Cancelled)
            if not isinstance(crashed, ExceptionGroup):
                raise
            await self._crashed_stopping(crashed)
        except Exception as error:
            await self._crashed_stopping(error)
        finally:
            self._done.set()

    async def drain(self) -> None:
        """Close the child's mailbox and wait for its end, which comes by force after the drain timeout."""
        if not self._served:
            return
        self._closing = True
        self._child.close()
        with trio.move_on_after(self._child.policy.drain_timeout) as limit:
            await self._done.wait()
        if limit.cancelled_caught:
            _log.warning(
                "actor did not drain in time and is cancelled",
                actor=self._child.name,
                seconds=self._child.policy.drain_timeout,
            )
            self._scope.cancel(reason="it did not drain in time")
            await self._done.wait()

    async def _keep(self) -> None:
        child, policy = self._child, self._child.policy
        while True:
            crash = await self._live_once()
            if crash is None:
                return
            if not self._served:
                cause = sole(crash)
                plain = isinstance(cause, OSError) and not cause.filename and cause.strerror
                said = plain or cause  # a number of the system's says nothing to people
                raise StartFailed(f"the {child.name} did not start: {said}") from cause
            now = trio.current_time()
            self._crashes.append(now)
            while self._crashes[0] <= now - policy.period:
                self._crashes.popleft()
            if len(self._crashes) > policy.intensity:
                given_up = GaveUp(
                    f"the {child.name} crashed {len(self._crashes)} times within {policy.period:g} s: "
                    f"{sole(crash)}"
                )
                given_up.__cause__ = sole(crash)
                self._fail(given_up)
                return
            pause = backoff(len(self._crashes), policy, self._jitter)
            metrics.actor_restarts.labels(actor=child.name).inc()
            _log.error("actor crashed", actor=child.name, restart_in=round(pause, 3), exc_info=crash)
            await trio.sleep(pause)

    async def _live_once(self) -> Exception | None:
        """One life of the actor: how it crashed, or None when it ended as it was told to."""
        limit = trio.CancelScope(deadline=trio.current_time() + self._child.policy.start_timeout)
        status = _Status(limit, self._serves)
        try:
            with limit:
                await self._child.make().run(task_status=status)
        except Exception as error:
            if trio.current_effective_deadline() == -math.inf:
                raise  # it was being cancelled: that is no crash to recover from
            return error
        if limit.cancelled_caught:
            return trio.TooSlowError(f"it could not serve within {self._child.policy.start_timeout:g} s")
        if not status.called and not self._closing:
            return RuntimeError("it ended before it could serve")
        if not self._closing:
            return RuntimeError("it ended although nobody had closed its mailbox")
        return None

    def _serves(self) -> None:
        self._served = True
        if self._up is not None:
            self._up.started()
            self._up = None

    async def _crashed_stopping(self, error: Exception) -> None:
        _log.error("actor crashed while it was cancelled", actor=self._child.name, exc_info=error)
        await trio.lowlevel.checkpoint()  # goes on being cancelled when it was not only this child


class _Status:
    """The task status of one life: `started()` ends the time limit for starting."""

    def __init__(self, limit: trio.CancelScope, serves: Callable[[], None]) -> None:
        self._limit = limit
        self._serves = serves
        self.called = False

    def started(self, value: None = None) -> None:
        if self.called:
            raise RuntimeError("called 'started' twice on the same task status")
        self.called = True
        self._limit.deadline = math.inf
        self._serves()
