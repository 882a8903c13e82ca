"""Serves an ASGI application so that nothing a peer sends harms more than its own connection.

hypercorn reads HTTP; the guard bounds how many connections there are and how long each lives, keeps every
error inside its connection, and stops in bounded time.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from runnerd import log

from .connection import App, Connection

OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Errors of accept that pass when other connections end; anything else means a broken listener."""

_PEER_GONE = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR})

_log = log.get(__name__)


async def serve(
    app: App,
    listeners: Sequence[trio.abc.Listener[trio.SocketStream]],
    *,
    stop: trio.Event,
    lifetime: float = 60.0,
    max_connections: int = 256,
    keep_alive: float = 5.0,
    grace: float = 5.0,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop` is set, then let requests in progress end within `grace` seconds.

    Resource handling: the listeners are closed when this returns or is cancelled. More than
    `max_connections` peers wait in the kernel's backlog. A connection that is idle, or has not finished
    its headers, for `keep_alive` seconds is closed; after `lifetime` seconds it is closed at the end of its
    request, and `grace` later in any case. What an application switches to another protocol
    (`connection.Switch`) is bound by neither; it ends within `grace` of `stop`.

    Error handling: what goes wrong in a connection is logged and ends that connection alone. Only a
    listener that no longer works raises (OSError).
    """
    config = Config()
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = keep_alive
    config.keep_alive_max_requests = sys.maxsize  # `lifetime` is the bound
    context = WorkerContext(None)
    slots = trio.Semaphore(max_connections)
    connections: set[Connection] = set()

    async def converse(stream: trio.SocketStream) -> None:
        try:
            now = trio.current_time()
            with trio.CancelScope(deadline=now + lifetime + grace) as bound:
                connection = Connection(
                    app,
                    stream,
                    config=config,
                    context=context,
                    grace=grace,
                    close_after=now + lifetime,
                    bound=bound,
                )
                connections.add(connection)
                try:
                    await connection.run()
                finally:
                    connections.discard(connection)
        except* Exception as group:
            _log.info("http_connection_failed", errors=_kinds(group))
        finally:
            await trio.aclose_forcefully(stream)
            slots.release()

    async def accept(listener: trio.abc.Listener[trio.SocketStream]) -> None:
        async with listener:
            while True:
                stream = await _accept(listener)
                # Waiting here leaves the next peers in the kernel's backlog.
                try:
                    await slots.acquire()
                except trio.Cancelled:
                    await trio.aclose_forcefully(stream)
                    raise
                conversations.start_soon(converse, stream)

    async with trio.open_nursery() as conversations:
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(accept, listener)
            task_status.started()
            await stop.wait()
            accepting.cancel_scope.cancel()
        await context.terminated.set()  # from here on a connection closes after its answer
        for connection in connections:
            connection.end_when_idle()
        conversations.cancel_scope.deadline = trio.current_time() + grace


async def _accept(listener: trio.abc.Listener[trio.SocketStream]) -> trio.SocketStream:
    """Take the next connection, over the errors that pass."""
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno in OUT_OF_RESOURCES:
                _log.error("accept_failed", error=str(error), retry_in=0.1)
                await trio.sleep(0.1)
            elif error.errno not in _PEER_GONE:
                raise


def _kinds(group: BaseExceptionGroup[Exception]) -> str:
    """Name the kinds of errors without their text, which may hold what the peer sent."""
    names: set[str] = set()
    for error in group.exceptions:
        names.update(
            _kinds(error).split(", ") if isinstance(error, BaseExceptionGroup) else {type(error).__name__}
        )
    return ", ".join(sorted(names))
