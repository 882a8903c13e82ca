"""The agent's loop, as a host sees it."""

import json
import os
import signal
import time
from pathlib import Path

from runnerd.machines.guest import system, wire

from .conftest import ENV, Host, gone


def test_nothing_is_done_before_a_hello(deaf_host: Host) -> None:
    """A request before the session is not answered; the HELLO that follows is."""
    deaf_host.request("ping")
    said = deaf_host.hello()
    assert said == {
        "nonce": "one",
        "protocol": wire.VERSION,
        "generation": 0,
        "pid": deaf_host.process.pid,
    }
    assert deaf_host.call("ping") == {}


def test_ping_is_echoed(host: Host) -> None:
    """A PONG carries what the PING did."""
    host.send(wire.PING, 0, b"12345678")
    assert host.receive() == (wire.PONG, 0, 0, b"12345678")


def test_repeated_hello_changes_nothing_and_a_new_one_everything(host: Host) -> None:
    """The same nonce keeps what runs; another one ends it, and the old session is not heard of again."""
    stream = host.request("exec", argv=["sleep", "60"], env=ENV)
    pid = host.answer(stream)["pid"]
    host.hello("one")
    assert Path(f"/proc/{pid}").exists()
    host.hello("two")
    gone(pid)
    assert host.call("ping") == {}  # and not the EXIT of the old session's process


def test_out_of_step_it_is_quiet_until_the_next_hello(host: Host) -> None:
    """Garbage from the host is not answered and does not end the agent."""
    host.socket.sendall(os.urandom(5000) + b"RDA1" + b"\0" * 3000)
    host.request("ping")
    host.hello("two")
    assert host.call("ping") == {}


def test_bad_requests_are_answered(host: Host) -> None:
    """What is no request gets an answer that says so, and the agent goes on."""
    for payload in (b"", b"[]", b"{", b'{"op": "nonesuch"}', b'{"op": "exec"}', b'{"op": 3}', b"[[1]]"):
        host.count += 1
        host.send(wire.REQ, host.count << 2, payload)
        assert "bad request" in host.answer(host.count << 2)["error"]
    host.send(wire.REQ, 7, b'{"op": "ping"}')
    assert "not a free stream" in host.answer(7)["error"]
    assert host.call("ping") == {}


def test_frames_for_nothing_are_ignored(host: Host) -> None:
    """Data, credit and resets for exchanges that are over have no effect."""
    for kind in (wire.DATA, wire.WINDOW, wire.EOF, wire.RESET, wire.EXIT, wire.RES):
        host.send(kind, 400, b"1234")
    assert host.call("ping") == {}


def test_full_queue_of_requests_is_worked_off(host: Host) -> None:
    """Hundreds of requests sent without reading an answer are all answered."""
    streams = [host.request("exec", argv=["true"], env=ENV) for _ in range(300)]
    ended = set()
    while len(ended) < len(streams):
        kind, _, stream, payload = host.receive()
        if kind == wire.EXIT:
            assert json.loads(payload)["code"] == 0
            ended.add(stream)
    assert ended == set(streams)


def test_long_request_follows_as_data(host: Host) -> None:
    """An environment too large for a frame arrives whole, credit being returned for it."""
    env = {**ENV, **{f"V{number}": "x" * 50_000 for number in range(10)}}
    rest = json.dumps({"argv": ["sh", "-c", "echo ${#V0} ${#V9}"], "env": env}).encode()
    stream = host.request("exec", rest=len(rest))
    credit = wire.WINDOW_SIZE
    while rest:
        if credit < 30_000:
            kind, _, sender, payload = host.receive()
            assert (kind, sender) == (wire.WINDOW, stream | wire.TO_GUEST)
            credit += int.from_bytes(payload, "little")
        host.send(wire.DATA, stream | wire.TO_GUEST, rest[:30_000])
        credit -= len(rest[:30_000])
        rest = rest[30_000:]
    while (frame := host.receive())[0] == wire.WINDOW:
        pass
    assert "pid" in json.loads(frame[3])
    assert host.finish(stream)[1] == b"50000 50000\n"


def test_taken_back_request_does_nothing(host: Host) -> None:
    """A reset while the rest of a request is under way ends it with a refusal."""
    stream = host.request("exec", rest=100)
    host.send(wire.RESET, stream)
    assert "taken back" in host.answer(stream)["error"]


def test_control_overtakes_data(host: Host) -> None:
    """While a flood waits for a host that does not read, an answer comes before most of it."""
    stream = host.request("exec", argv=["cat", "/dev/zero"], env=ENV)
    host.answer(stream)
    time.sleep(0.3)  # fills the socket and the agent's queue
    host.request("ping")
    data = 0
    while (frame := host.receive())[0] == wire.DATA:
        data += len(frame[3])
    assert frame[0] == wire.RES
    assert data < wire.WINDOW_SIZE + 1
    host.send(wire.RESET, stream)
    assert host.finish(stream)[0]["signal"] == signal.SIGKILL


def test_two_floods_share_the_channel(host: Host) -> None:
    """Neither of two processes that write as fast as they can starves the other."""
    streams = [host.request("exec", argv=["cat", "/dev/zero"], env=ENV) for _ in range(2)]
    counts = dict.fromkeys(streams, 0)
    for _ in range(600):
        kind, _, sender, payload = host.receive()
        if kind == wire.DATA:
            counts[sender & ~3] += len(payload)
            host.send(wire.WINDOW, sender, len(payload).to_bytes(4, "little"))
    assert min(counts.values()) > sum(counts.values()) / 20  # the kernel gives the time


def test_end_of_the_host_ends_agent_and_jobs(host: Host) -> None:
    """When the host hangs up, everything the agent started is gone, also what fled its session."""
    stream = host.request(
        "exec", argv=["sh", "-c", "setsid sleep 60 & setsid setsid sleep 60 & echo $!; wait"], env=ENV
    )
    host.answer(stream)
    assert host.receive()[0] == wire.DATA
    deadline = time.monotonic() + 30
    while len(group := _below(host.process.pid)) < 3:
        assert time.monotonic() < deadline
    assert host.close() == 0
    assert [pid for pid in group if Path(f"/proc/{pid}").exists()] == []


def _below(ancestor: int) -> list[int]:
    """All descendants of a process."""
    found = system.children(ancestor)
    for pid in found:
        found.extend(system.children(pid))
    return found
