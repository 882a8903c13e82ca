"""Files are read without the event loop, the small in a thread, the large and the doubtful in a process."""

import os
import sys

import pytest
import trio

from runnerd.reading import process
from runnerd.reading.process import Reader
from runnerd.workflow import WorkflowErrors, load

GOOD = "on: push\njobs: {a: {runs-on: x, steps: [{run: y}]}}\n"
SLEEPS = (sys.executable, "-c", "import time; time.sleep(600)")
"""Stands for a reading that hangs."""


async def refused(reader, text, path="w.yml"):
    with pytest.raises(WorkflowErrors) as found:
        await reader.load(text, path)
    return found.value.problems[0]


def counting(monkeypatch):
    """The process ids that a reader starts."""
    pids = []
    start = trio.lowlevel.open_process

    async def noted(*arguments, **options):
        child = await start(*arguments, **options)
        pids.append(child.pid)
        return child

    monkeypatch.setattr(process.trio.lowlevel, "open_process", noted)
    return pids


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_small_file_needs_no_process(monkeypatch):
    """What reads well in a thread is done there, a bad file too."""
    pids = counting(monkeypatch)
    text = GOOD + "# small\n"
    assert await Reader().load(text, "w.yml") == load(text, path="w.yml")
    assert "'qqq'" in (await refused(Reader(), GOOD + "qqq: 1\n")).message
    assert pids == []


async def test_a_large_file_is_read_apart_and_then_known(monkeypatch):
    """The process's answer equals what this process would read; the second time there is none."""
    pids = counting(monkeypatch)
    text = GOOD + "# large\n"
    reader = Reader(small=10)
    assert await reader.load(text, "w.yml") == load(text, path="w.yml")
    assert await Reader(small=10).load(text, "w.yml") is await reader.load(text, "w.yml")
    assert len(pids) == 1
    assert gone(pids[0])


async def test_what_the_quick_parser_refuses_is_read_apart(monkeypatch):
    """The slow parser's second opinion is had in a process, whatever the size."""
    pids = counting(monkeypatch)
    text = GOOD.replace("[{run: y}]", "[{run: [http://x:80/, c]}]")
    problem = await refused(Reader(), text)
    assert problem == next(iter(_problems(text)))
    assert len(pids) == 1


def _problems(text):
    with pytest.raises(WorkflowErrors) as found:
        load(text, path="w.yml")
    return found.value.problems


async def test_a_reading_that_hangs_is_killed(monkeypatch):
    """After its time the process is gone, and the file is refused with the reason."""
    pids = counting(monkeypatch)
    problem = await refused(Reader(small=0, timeout=0.2, command=SLEEPS), GOOD + "# hangs\n", "h.yml")
    assert "took longer than 0.2 s and was stopped" in problem.message
    assert gone(pids[0])
    assert (await Reader().load(GOOD + "# hangs\n", "h.yml")).jobs  # on a calmer day


async def test_a_reading_that_is_given_up_is_killed(monkeypatch):
    """Who is cancelled leaves no process behind."""
    pids = counting(monkeypatch)
    reader = Reader(small=0, command=SLEEPS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.load, GOOD + "# given up\n", "w.yml")
        with trio.fail_after(30):
            while not pids:  # noqa: ASYNC110 - nothing else says that it was started
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert gone(pids[0])


async def test_a_process_that_dies_or_babbles_is_the_file_s_fault():
    """No answer, a wrong answer and too long an answer are said, and nothing of them is believed."""
    for code in ("raise SystemExit(3)", "import os; os.kill(os.getpid(), 11)", "print('{}')"):
        command = (sys.executable, "-c", code)
        problem = await refused(Reader(small=0, command=command), GOOD + f"# {code}\n")
        assert "ended without an answer" in problem.message
    endless = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    problem = await refused(Reader(small=0, command=(sys.executable, "-c", endless)), GOOD + "# endless\n")
    assert "ended without an answer" in problem.message


async def test_a_reader_that_cannot_be_started_is_our_fault():
    """Then the file is not blamed, nor remembered as bad."""
    with pytest.raises(OSError, match="no-such-program"):
        await Reader(small=0, command=("/no-such-program",)).load(GOOD + "# none\n", "w.yml")
    assert (await Reader().load(GOOD + "# none\n", "w.yml")).jobs
