"""A raw-socket webhook generator for a process of its own: signed pushes, one at a time per connection.

    python -m bench.load PORT CONNECTIONS COUNT SECRET PAYLOAD

Prints one JSON line: seconds in all, the milliseconds of each request, from the first byte sent to the last
byte of the answer, and when each was sent, in seconds since the epoch. Every answer must be 202, or it
stops with what the server said.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import selectors
import socket
import sys
import time
import uuid
from pathlib import Path


class Connection:
    """One keep-alive connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.started = self.sent = 0.0
        self.answer = b""

    def send(self, request: bytes) -> None:
        """Send one whole request and note the time."""
        self.answer = b""
        self.started, self.sent = time.perf_counter(), time.time()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Take what has come; True when the answer is complete."""
        data = self.socket.recv(65536)
        if not data:
            raise SystemExit("the server closed a connection")
        self.answer += data
        head, found, body = self.answer.partition(b"\r\n\r\n")
        if not found:
            return False
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line[:15] == b"content-length:"
        )
        if len(body) < length:
            return False
        if b" 202 " not in head.split(b"\r\n", 1)[0]:
            raise SystemExit(f"not accepted: {self.answer[:400]!r}")
        return True


def request(body: bytes, signature: str) -> bytes:
    """A push delivery with an id of its own."""
    head = (
        "POST /webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"User-Agent: GitHub-Hookshot/bench\r\nX-GitHub-Event: push\r\nX-GitHub-Delivery: {uuid.uuid4()}\r\n"
        f"X-Hub-Signature-256: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run(port: int, connections: int, count: int, secret: str, body: bytes) -> dict[str, object]:
    """Send `count` deliveries over so many connections and time each."""
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    requests = [request(body, signature) for _ in range(count)]
    times: list[float] = []
    sent: list[float] = []
    started = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(min(connections, count)):
            connection = Connection(port)
            connection.send(requests.pop())
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        while len(times) < count:
            for key, _ in selector.select():
                connection = key.data
                if connection.receive():
                    times.append((time.perf_counter() - connection.started) * 1000)
                    sent.append(connection.sent)
                    if requests:
                        connection.send(requests.pop())
    return {"seconds": time.perf_counter() - started, "ms": times, "sent": sent}


if __name__ == "__main__":
    port, connections, count, secret, payload = sys.argv[1:]
    answer = run(int(port), int(connections), int(count), secret, Path(payload).read_bytes())
    print(json.dumps(answer))
