"""The one writer: what many tasks want to write at the same time becomes durable in one commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
import trio

from runnerd.store.errors import LedgerUnavailable

BATCH = 256
"""Writes in one transaction at most."""

QUEUE = 1024
"""Writes that may wait for the writer; more are held back where they are asked for."""

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
"""Reads and writes within a transaction; whatever it raises undoes what it wrote, and that alone."""


class _Write(Generic[T]):
    """One write on its way, and the slot for what became of it."""

    def __init__(self, work: Work[T]) -> None:
        self.work = work
        self._done = trio.Event()
        self._value: T
        self._error: Exception | None = None

    def settle(self, value: T | None, error: Exception | None) -> None:
        self._value, self._error = value, error  # type: ignore[assignment]
        self._done.set()

    async def settled(self) -> T:
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value


class Writer:
    """A queue of writes and the loop that commits them in batches, in the order they came.

    The queue outlives the loop: what is submitted before the loop runs, or after it crashed, waits.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._put, self._take = trio.open_memory_channel[_Write[Any]](QUEUE)
        self._thread = trio.CapacityLimiter(1)
        self._closed = False

    async def submit(self, work: Work[T]) -> T:
        """Do `work` in a transaction and return what it returned, once that is durable.

        Raises what `work` raised, and `LedgerUnavailable` when the transaction could not be made durable;
        in both cases nothing of it is stored. When the caller is cancelled, it may be stored all the same.
        """
        write = _Write(work)
        try:
            await self._put.send(write)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise LedgerUnavailable("the ledger is closed: the daemon is stopping") from None
        return await write.settled()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what is submitted, until `close` was called and the queue is empty."""
        task_status.started()
        while True:
            try:
                batch = [await self._take.receive()]
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return
            while len(batch) < BATCH:
                try:
                    batch.append(self._take.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            # A batch that was taken is carried through: its callers wait for the answer.
            with trio.CancelScope(shield=True):
                outcomes = await trio.to_thread.run_sync(self._commit, batch, limiter=self._thread)
            for write, (value, error) in zip(batch, outcomes, strict=True):
                write.settle(value, error)

    def close(self) -> None:
        """Take no more writes; those in the queue are still committed. Safe to call twice."""
        self._put.close()

    def abandon(self) -> None:
        """Take no more writes and refuse those in the queue, which nobody will commit."""
        self._put.close()
        while True:
            try:
                write = self._take.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                break
            write.settle(None, LedgerUnavailable("the ledger was closed before this was written"))
        self._take.close()

    def _commit(self, batch: Sequence[_Write[Any]]) -> list[tuple[Any, Exception | None]]:
        """One transaction for the batch, a savepoint for each write; runs in a thread."""
        try:
            with self._engine.begin() as connection:
                return [_attempt(connection, write.work) for write in batch]
        except Exception as error:
            # The commit, or something that ended the whole transaction, failed: nothing is stored.
            return [(None, unavailable(error, "written")) for _ in batch]


def unavailable(error: Exception, what: str) -> Exception:
    """The sentence for a database that failed; any other error is a fault of ours and stays as it is."""
    if not isinstance(error, sa.exc.SQLAlchemyError):
        return error
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return LedgerUnavailable(
        f"the ledger cannot be {what} ({cause}): look at free space, rights and other users of the file"
    )


def _attempt(connection: sa.Connection, work: Work[Any]) -> tuple[Any, Exception | None]:
    savepoint = connection.begin_nested()
    try:
        value = work(connection)
    except Exception as error:
        if _fatal(error):
            raise
        savepoint.rollback()
        return None, error
    savepoint.commit()
    return value, None


def _fatal(error: Exception) -> bool:
    """Whether the database itself failed, not just this statement: the transaction may be gone already."""
    return type(error) in (sa.exc.OperationalError, sa.exc.InternalError, sa.exc.DatabaseError)
