"""The line to an agent whose connections do not outlive a snapshot: it may be cut, and joined again."""

from __future__ import annotations

from collections.abc import Callable

import trio

BREATH = 0.005
"""Seconds between two bytes that only ask whether the connection is still there."""


class Line(trio.abc.Stream):
    """A stream over one connection at a time, none at first. While it is loose, their end is not its own."""

    def __init__(self) -> None:
        self._stream: trio.abc.Stream | None = None
        self._loose = True
        self._closed = False
        self._on_cut: Callable[[], None] = lambda: None
        self._joined = trio.Event()

    def loosen(self) -> None:
        """Let the connection end without anybody hearing of it, until `settle`."""
        self._loose = True
        self._on_cut = lambda: None

    async def join(self, stream: trio.abc.Stream, on_cut: Callable[[], None]) -> None:
        """Go on over another connection; `on_cut` is called when that one ends before `settle`."""
        old, self._stream, self._on_cut = self._stream, stream, on_cut
        joined, self._joined = self._joined, trio.Event()
        joined.set()
        if old is not None:
            await trio.aclose_forcefully(old)

    async def worn_out(self, deadline: float) -> None:
        """Speak, while loose, until the connection ends: then the guest has none any more.

        Of a reset the guest alone is told, and it ends all connections it has when it gets to it: one that
        was made before that would end as well. An agent takes these bytes for the rest of some frame.
        """
        with trio.move_on_after(deadline), trio.CancelScope() as until_cut:
            self._on_cut = until_cut.cancel
            while True:
                await self.send_all(b"\xff")
                await trio.sleep(BREATH)

    def settle(self) -> None:
        """From here on the end of the connection is the end of the line."""
        self._loose = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See `trio.abc.ReceiveStream`; waits while the line is cut and may still be joined."""
        while True:
            stream, joined = self._stream, self._joined
            try:
                if stream is not None and (data := await stream.receive_some(max_bytes)):
                    return data
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                if not self._may_go_on(joined):
                    raise
            if not self._may_go_on(joined):
                return b""
            if not joined.is_set():
                self._on_cut()
                await joined.wait()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`; what is sent into a line that is cut is gone."""
        joined = self._joined
        try:
            if self._stream is not None:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if not self._may_go_on(joined):
                raise

    async def wait_send_all_might_not_block(self) -> None:
        """Returns at once."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close the line for good."""
        self._closed = True
        if self._stream is not None:
            await self._stream.aclose()

    def _may_go_on(self, joined: trio.Event) -> bool:
        """Whether the end of the connection that was there before `joined` is not that of the line."""
        return not self._closed and (self._loose or joined.is_set())
