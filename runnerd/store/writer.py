"""The one writer: what many tasks want to write at the same time becomes durable in one commit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
import trio

from runnerd import log
from runnerd.store.errors import LedgerUnavailable

_log = log.get("ledger")

BATCH = 256
"""Writes in one transaction at most."""

QUEUE = 1024
"""Writes that may be on their way at once; more are held back where they are asked for."""

LINGER = 0.05
"""Seconds in which writes that nobody waits for are committed."""

_ABANDONED = "the ledger was closed before this was written"

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
"""Reads and writes within a transaction; whatever it raises undoes what it wrote, and that alone.

It does nothing else: where another write of its transaction fails, it is undone and done again.
"""


class _Write(Generic[T]):
    """One write on its way, and the slot for what became of it; `posted` when nobody waits for that."""

    def __init__(self, work: Work[T], *, posted: bool = False) -> None:
        self.work = work
        self.posted = posted
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
        self._put, self._take = trio.open_memory_channel[_Write[Any]](math.inf)
        self._room = trio.Semaphore(QUEUE)
        self._thread = trio.CapacityLimiter(1)
        self._abandoned = False

    async def submit(self, work: Work[T]) -> T:
        """Do `work` in a transaction and return what it returned, once that is durable.

        Raises what `work` raised, and `LedgerUnavailable` when the transaction could not be made durable;
        in both cases nothing of it is stored. When the caller is cancelled, it may be stored all the same.
        """
        write = _Write(work)
        try:
            self._room.acquire_nowait()  # no other task comes between, so that writes keep their order
        except trio.WouldBlock:
            await self._room.acquire()
        try:
            self._send(write)
            return await write.settled()
        finally:
            self._room.release()

    def post(self, work: Work[object]) -> None:
        """Have `work` done like `submit`, in the order of all writes, without waiting for it.

        For few small writes, which are held back by nothing. They are committed with the next that somebody
        waits for, or within `LINGER`, so that nobody waits for their commit. A failure is logged; after
        `close` they are not done at all.
        """
        with contextlib.suppress(LedgerUnavailable):
            self._send(_Write(work, posted=True))

    def _send(self, write: _Write[Any]) -> None:
        try:
            self._put.send_nowait(write)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise LedgerUnavailable("the ledger is closed: the daemon is stopping") from None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what is submitted, until `close` was called and the queue is empty."""
        task_status.started()
        while True:
            try:
                batch = [await self._take.receive()]
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return
            try:
                with trio.move_on_after(LINGER, shield=True):
                    while batch[-1].posted and len(batch) < BATCH:
                        batch.append(await self._take.receive())
                while len(batch) < BATCH:
                    batch.append(self._take.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                pass
            if self._abandoned:
                for write in batch:
                    write.settle(None, LedgerUnavailable(_ABANDONED))
                return
            # A batch that was taken is carried through: its callers wait for the answer.
            with trio.CancelScope(shield=True):
                outcomes = await trio.to_thread.run_sync(self._commit, batch, limiter=self._thread)
            for write, (value, error) in zip(batch, outcomes, strict=True):
                write.settle(value, error)
                if write.posted and error is not None:
                    _log.error("something could not be written down", problem=str(error))

    def close(self) -> None:
        """Take no more writes; those in the queue are still committed. Safe to call twice."""
        self._put.close()
        for _ in range(self._room.statistics().tasks_waiting):
            self._room.release()  # who still waits outside is refused

    def abandon(self) -> None:
        """Take no more writes and refuse those in the queue, which nobody will commit."""
        self._abandoned = True
        self.close()
        while True:
            try:
                write = self._take.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                break
            write.settle(None, LedgerUnavailable(_ABANDONED))
        self._take.close()

    def _commit(self, batch: Sequence[_Write[Any]]) -> list[tuple[Any, Exception | None]]:
        """One transaction for the batch; runs in a thread.

        Savepoints cost as much as the writes themselves, and hardly a write fails. So there are none
        before one did: then the whole batch is done again, and each fails alone.
        """
        try:
            try:
                with self._engine.begin() as connection:
                    return [(write.work(connection), None) for write in batch]
            except Exception as error:
                if _fatal(error):
                    raise
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
