"""The person's side of a terminal over the control socket. Standard library alone, and nothing blocks it.

Whoever uses a `Line` waits for its descriptor: to be read always, to be written while `pending`.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
from pathlib import Path
from types import TracebackType
from urllib.parse import urlencode

from .client import TIMEOUT, Refusal, Unreachable, connect, unreachable
from .frames import PROTOCOL, BadFrame, Decoder, Frame, Kind, encode, encode_all, encode_window

HEAD_LIMIT = 64 << 10
"""Bytes that the head of the daemon's answer, or its refusal, may have."""
ENOUGH = 256 << 10
"""Bytes that wait to be sent before no more should be typed."""


class Line:
    """A terminal's connection to the daemon; a context that closes it."""

    def __init__(self, path: str, connection: socket.socket) -> None:
        self._path = path
        self._socket = connection
        self._socket.setblocking(False)
        self._decoder = Decoder(Kind.SCREEN, Kind.NOTE, Kind.STATUS, Kind.FAILED)
        self._out = bytearray()

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    @property
    def pending(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._out)

    @property
    def full(self) -> bool:
        """Whether so much waits to be sent that no more should be typed."""
        return len(self._out) > ENOUGH

    def type(self, keys: bytes) -> None:
        """Send what was typed."""
        self._out += encode_all(Kind.KEYS, keys)

    def resize(self, rows: int, columns: int) -> None:
        """Send the window's new size."""
        self._out += encode_window(rows, columns)

    def end(self) -> None:
        """Say that nothing more will be typed."""
        self._out += encode(Kind.END)

    def flush(self) -> None:
        """Send what can be sent now; what a daemon that has gone does not take is dropped."""
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:  # its last words may still be there to be read
            self._out.clear()

    def receive(self) -> list[Frame]:
        """Return the frames that have come; raises `Unreachable` when the daemon has gone."""
        try:
            data = self._socket.recv(HEAD_LIMIT)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            raise Unreachable(f"the daemon on {self._path} ended the connection")
        try:
            return self._decoder.feed(data)
        except BadFrame as error:
            raise unreachable(self._path, error) from error


def dial(
    path: Path | str, run: int, job: int, at: str | None, *, window: tuple[int, int], term: str, plain: bool
) -> Line:
    """Ask the daemon on this socket for a terminal. Raises `Unreachable` and `Refusal`."""
    rows, columns = window
    query = {"rows": rows, "columns": columns, "term": term, "plain": int(plain)}
    if at is not None:
        query["at"] = at
    target = f"/v1/runs/{run}/jobs/{job}/shell?{urlencode(query)}"
    request = f"GET {target} HTTP/1.1\r\nhost: runnerd\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n"
    try:
        connection = connect(str(path), TIMEOUT)
    except OSError as error:
        raise unreachable(str(path), error) from error
    try:
        connection.sendall(request.encode("ascii"))
        status, headers = _read(_head(connection))
        if status == 101:
            return Line(str(path), connection)
        length, body = min(int(headers.get("content-length") or 0), HEAD_LIMIT), b""
        while len(body) < length and (data := connection.recv(HEAD_LIMIT)):
            body += data
        answer = json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        raise unreachable(str(path), error) from error
    except BaseException:
        connection.close()
        raise
    connection.close()
    sentence = answer.get("error") if isinstance(answer, dict) else None
    raise Refusal(str(sentence or f"the daemon answered {status}"), status)


def _head(connection: socket.socket) -> bytes:
    """Read the head of the answer and nothing behind it. Raises OSError and ValueError."""
    data = bytearray()
    while not data.endswith(b"\r\n\r\n"):
        more = connection.recv(1)
        if not more or len(data) > HEAD_LIMIT:
            raise ValueError("its answer has no end")
        data += more
    return bytes(data)


def _read(head: bytes) -> tuple[int, http.client.HTTPMessage]:
    """Return an answer's status and headers. Raises ValueError and HTTPException."""
    line, _, rest = head.partition(b"\r\n")
    words = line.decode("latin-1").split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1."):
        raise ValueError("it does not speak HTTP")
    return int(words[1]), http.client.parse_headers(io.BytesIO(rest))
