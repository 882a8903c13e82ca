"""Processes under the agent: streams, ends, drains and signals."""

import os
import signal
import time

from runnerd.machines.guest import process, wire

from .conftest import ENV, Host, gone


def test_streams_and_exit_code(host: Host) -> None:
    """Both outputs arrive apart, and the exit code is the process's own."""
    assert host.run("sh", "-c", "echo out; echo err >&2; exit 3") == (
        {"code": 3, "signal": None, "out_of_memory": False, "disk_full": False},
        b"out\n",
        b"err\n",
    )


def test_death_by_signal_is_told_apart_from_an_exit_code(host: Host) -> None:
    """A killed process has a signal and no code; 137 is a code."""
    calm = {"out_of_memory": False, "disk_full": False}
    assert host.run("sh", "-c", "kill -9 $$")[0] == {"code": None, "signal": 9, **calm}
    assert host.run("sh", "-c", "exit 137")[0] == {"code": 137, "signal": None, **calm}


def test_what_cannot_start_is_refused(host: Host) -> None:
    """An absent program or folder is an answer with its errno, never an EXIT."""
    assert host.call("exec", argv=["nonesuch-program"], env=ENV)["errno"] == 2
    assert "cannot enter" in host.call("exec", argv=["true"], env=ENV, cwd="/nonesuch")["error"]
    assert "argv is empty" in host.call("exec", argv=[], env=ENV)["error"]


def test_no_descriptor_is_lost(host: Host) -> None:
    """After many processes, started and refused, the agent holds as many descriptors as before."""
    folder = f"/proc/{host.process.pid}/fd"
    host.run("true")
    before = len(os.listdir(folder))
    for _ in range(10):
        host.run("cat", stdin=False)
        host.call("exec", argv=["nonesuch-program"], env=ENV, stdin=True)
        host.call("exec", argv=["true"], env=ENV, cwd="/nonesuch", stdin=True)
    assert len(os.listdir(folder)) == before


def test_background_process_does_not_hold_the_exit(host: Host) -> None:
    """With a child that keeps the output open, the exit comes after the idle time, and the child lives on."""
    started = time.monotonic()
    ended, out, _ = host.run("sh", "-c", "sleep 60 & echo started $!")
    assert ended["code"] == 0
    assert time.monotonic() - started < 30
    pid = int(out.split()[1])
    os.kill(pid, 0)
    os.kill(pid, signal.SIGKILL)


def test_late_output_is_still_delivered(host: Host) -> None:
    """What a left-over child writes within the drain, after the end, arrives before the EXIT."""
    script = "(while kill -0 $$; do :; done 2>/dev/null; echo late) & echo early"
    assert host.run("sh", "-c", script)[1] == b"early\nlate\n"


def test_chatty_background_process_is_cut_off(host: Host) -> None:
    """A child that never stops writing does not keep the exit longer than the bound."""
    started = time.monotonic()
    ended, out, _ = host.run("sh", "-c", "while sleep 0.1; do echo more; done & exit 4")
    assert ended["code"] == 4
    assert out.startswith(b"more\n")
    assert process.LONGEST - 0.2 < time.monotonic() - started < 30


def test_own_output_survives_a_host_that_is_slow(host: Host) -> None:
    """All that the process wrote arrives, although the host takes longer over it than any drain lasts."""
    size = wire.WINDOW_SIZE + 60_000
    stream = host.request("exec", argv=["head", "-c", str(size), "/dev/zero"], env=ENV)
    host.answer(stream)
    time.sleep(process.LONGEST + 0.5)  # no credit is returned meanwhile: the rest waits in the pipe
    ended, out, _ = host.finish(stream)
    assert (ended["code"], len(out)) == (0, size)


def test_without_credit_nothing_is_sent(host: Host) -> None:
    """A process stands still when the window is full, and goes on with the credit."""
    stream = host.request("exec", argv=["cat", "/dev/zero"], env=ENV)
    host.answer(stream)
    taken = 0
    while taken < wire.WINDOW_SIZE:
        taken += len(host.receive()[3])
    assert taken == wire.WINDOW_SIZE
    assert host.call("ping") == {}  # and no DATA before the answer
    host.send(wire.WINDOW, stream | wire.FROM_GUEST, (1000).to_bytes(4, "little"))
    assert len(host.receive()[3]) == 1000
    host.send(wire.RESET, stream)
    host.finish(stream)


def test_stdin_is_fed_under_credit(host: Host) -> None:
    """The host's bytes reach the process; credit comes back as it reads them."""
    stream = host.request("exec", argv=["sh", "-c", "sleep 0.2; wc -c"], env=ENV, stdin=True)
    host.answer(stream)
    for _ in range(wire.WINDOW_SIZE // 32768):
        host.send(wire.DATA, stream | wire.TO_GUEST, b"x" * 32768)
    kind, _, sender, payload = host.receive()
    assert (kind, sender) == (wire.WINDOW, stream | wire.TO_GUEST)
    assert wire.WINDOW_SIZE // 2 <= int.from_bytes(payload, "little") <= wire.WINDOW_SIZE
    host.send(wire.EOF, stream | wire.TO_GUEST)
    assert host.finish(stream)[1].strip() == str(wire.WINDOW_SIZE).encode()


def test_unread_stdin_does_no_harm(host: Host) -> None:
    """A process that closes its input early ends as it likes."""
    stream = host.request("exec", argv=["true"], env=ENV, stdin=True)
    host.answer(stream)
    host.send(wire.DATA, stream | wire.TO_GUEST, b"x" * 65536)
    host.send(wire.DATA, stream | wire.TO_GUEST, b"x" * 65536)
    host.send(wire.EOF, stream | wire.TO_GUEST)
    assert host.finish(stream)[0]["code"] == 0
    assert host.call("ping") == {}


def test_signal_reaches_the_whole_group(host: Host) -> None:
    """A signal goes to the process and the children in its group."""
    stream = host.request("exec", argv=["sh", "-c", "sleep 600 & echo $!; wait; exit 1"], env=ENV)
    host.answer(stream)
    child = int(host.receive()[3])
    assert host.call("signal", to=stream, signal=signal.SIGTERM) == {"found": True}
    assert host.finish(stream)[0]["signal"] == signal.SIGTERM
    gone(child)
    assert host.call("signal", to=stream, signal=signal.SIGTERM) == {"found": False}


def test_reset_kills_at_once_and_still_says_exit(host: Host) -> None:
    """A reset ends the group without a drain; the EXIT is the last word."""
    script = "trap '' INT TERM; sleep 600 & echo $!; setsid sleep 600 & sleep 600"
    took = process.IDLE
    for _ in range(20):  # a drain would be in every one, the pause of a busy host is not
        stream = host.request("exec", argv=["sh", "-c", script], env=ENV)
        host.answer(stream)
        child = int(host.receive()[3])
        started = time.monotonic()
        host.send(wire.RESET, stream)
        assert host.finish(stream)[0]["signal"] == signal.SIGKILL
        took = time.monotonic() - started
        gone(child)
        if took < process.IDLE:
            break
    assert took < process.IDLE


def test_process_runs_at_higher_risk_of_the_oom_killer(host: Host) -> None:
    """A job's process is preferred by the kernel when memory runs out."""
    assert host.run("cat", "/proc/self/oom_score_adj")[1] == b"100\n"
