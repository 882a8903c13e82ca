"""A job's log is live, bounded, honest about what it dropped, and survives hostile text and full disks."""

import errno
import os
from datetime import UTC, datetime

import pytest
import trio

from runnerd.store import logs
from runnerd.store.logs import Cap, JobLog, log_path, read, tail

NOON = 1_795_456_929.123456
STAMP = "2026-11-23T18:02:09.123456Z "


def open_log(path, limit_job=1 << 20, limit_step=1 << 20) -> JobLog:
    """A log whose clock stands still."""
    return JobLog(path, limit_job, limit_step, lambda: NOON)


@pytest.fixture
def path(tmp_path):
    """Where the log of job 7 of run 3 lies; its folders do not exist yet."""
    return log_path(tmp_path, 3, 7)


def test_where_a_log_lies(tmp_path):
    """Logs are found by run and job."""
    assert log_path(tmp_path, 3, 7) == tmp_path / "logs" / "3" / "7.log"


async def test_lines_have_their_time(path):
    """Each line is a UTC time with microseconds, a space and the text as it came."""
    async with open_log(path) as log:
        await log.line("one \x1b[31mred\x1b[0m\rover")
        await log.line("")
        await log.line("two\nthree ü \u2028")
    assert path.read_bytes().decode().split("\n") == [
        STAMP + "one \x1b[31mred\x1b[0m\rover",
        STAMP,
        STAMP + "two",
        STAMP + "three ü \u2028",
        "",
    ]


async def test_what_is_no_text_is_replaced(path):
    """NUL and lone surrogates never reach the file, which is always valid UTF-8."""
    async with open_log(path) as log:
        await log.line("a\0b\ud800c")
    assert path.read_bytes().decode() == STAMP + "a\ufffdb?c\n"


async def test_a_long_line_goes_on_in_the_next(path):
    """No line has more than 64 KiB, no character is cut in two and none is lost."""
    text = "x" + "é" * logs.LINE
    async with open_log(path) as log:
        await log.line(text)
    lines = [line[len(STAMP) :] for line in path.read_text().split("\n")[:-1]]
    assert len(lines) == 3
    assert max(len(line.encode()) for line in lines) <= logs.LINE
    assert "".join(lines) == text


async def test_a_reader_sees_lines_while_the_job_runs(path):
    """A line can be read within a moment, long before the log is closed."""
    async with open_log(path) as log:
        await log.line("first")
        data, offset = await awaited(path, 0)
        assert data.decode() == STAMP + "first\n"
        await log.line("second")
        assert (await awaited(path, offset))[0].decode() == STAMP + "second\n"


async def awaited(path, offset):
    """What `read` gives, once it gives anything."""
    with trio.fail_after(30):
        while not (got := await read(path, offset, 1000))[0]:  # noqa: ASYNC110 - no event tells of it
            await trio.sleep(logs.PAUSE)
    return got


async def test_reading_ends_at_a_line(path):
    """A page holds whole lines where it can, and following the offsets gives every byte once."""
    async with open_log(path) as log:
        for number in range(100):
            await log.line(f"line {number} " + "y" * number)
    pages, offset = [], 0
    while True:
        data, offset = await read(path, offset, 300)
        if not data:
            break
        assert len(data) <= 300
        assert data.endswith(b"\n")
        pages.append(data)
    assert b"".join(pages) == path.read_bytes()


async def test_reading_what_is_not_there(path):
    """A log that nobody has begun is empty, and so is what lies behind the end."""
    assert await read(path, 0, 100) == (b"", 0)
    async with open_log(path) as log:
        await log.line("x")
    assert await read(path, 5000, 100) == (b"", 5000)


async def test_another_attempt_appends(path):
    """What an earlier attempt logged stays, and a line it could not finish is ended."""
    path.parent.mkdir(parents=True)
    path.write_text("an earlier attempt died he")
    async with open_log(path) as log:
        await log.line("again")
    assert path.read_text() == "an earlier attempt died he\n" + STAMP + "again\n"


async def test_a_step_that_logs_too_much_keeps_head_and_tail(path):
    """The limit holds on disk, the first and the last lines are there, and the loss is said in bytes."""
    async with open_log(path, limit_job=1 << 20, limit_step=10_000) as log:
        await log.begin_step(1)
        for number in range(5000):
            await log.line(f"line {number:04}")
        await log.begin_step(2)
        await log.line("the next step")
    text = path.read_text()
    lines = [line[len(STAMP) :] for line in text.split("\n")[:-1]]
    assert len(text) < 10_000 + 400
    assert lines[0] == "line 0000"
    assert lines[-2:] == ["line 4999", "the next step"]
    kept = [line for line in lines if line.startswith("line ")]
    one = len(STAMP) + len("line 0000\n")
    assert f"[runnerd] {(5000 - len(kept)) * one} bytes in {5000 - len(kept)} lines were dropped here" in text
    live = lines.index("[runnerd] this step logs too much: from here only the end is kept")
    assert lines[live - 1] == f"line {live - 1:04}"
    assert "dropped here" in lines[live + 1]


async def test_the_last_step_is_never_silent(path):
    """However much the steps before logged, a later one still has room, and the job's limit holds."""
    async with open_log(path, limit_job=100_000, limit_step=60_000) as log:
        for step in range(1, 9):
            await log.begin_step(step)
            for _ in range(3000):
                await log.line(f"noise of step {step}")
        await log.begin_step(9)
        await log.line("the end")
    text = path.read_text()
    assert len(text) < 100_000 + 3 * logs.FLOOR + 8 * 400
    assert text.endswith("the end\n")
    assert "noise of step 8" in text


async def test_notes_are_beyond_the_limits(path):
    """What the daemon itself has to say is always written."""
    async with open_log(path, limit_job=0, limit_step=0) as log:
        for _ in range(1000):
            await log.line("too much")
        await log.note("the machine was lost")
    text = path.read_text()
    assert STAMP + "the machine was lost\n" in text
    assert "were dropped here" in text
    assert len(text) < logs.FLOOR + 400


def test_a_cap_never_holds_more_than_its_tail():
    """Memory for the tail is bounded, whatever the sizes of the lines."""
    cap = Cap(1000)
    taken = sum(len(line) for line in (b"x" * size for size in range(1, 400)) if cap.take(line))
    assert taken <= 750
    assert sum(map(len, cap.rest())) <= 250
    assert taken + cap.dropped_bytes + sum(map(len, cap.rest())) == sum(range(1, 400))


async def test_a_cancelled_job_keeps_its_lines(path):
    """Closing the log under cancellation still writes what had come."""
    with trio.CancelScope() as scope:
        async with open_log(path) as log:
            await log.line("before")
            await awaited(path, 0)
            for number in range(1000):
                await log.line(f"{number}")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert path.read_text().endswith(STAMP + "999\n")


async def test_errors_pass_through_unwrapped(path):
    """What is raised while a log is open leaves it as it is."""

    async def fail() -> None:
        async with open_log(path) as log:
            await log.line("before")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()
    assert path.read_text() == STAMP + "before\n"


async def test_much_output_is_held_back_not_piled_up(path):
    """A fast writer waits for the disk: never more than the buffer and one line are in memory."""
    async with open_log(path, limit_job=1 << 26, limit_step=1 << 26) as log:
        largest = 0
        for _ in range(200):
            await log.line("z" * 60_000)
            largest = max(largest, log._size)
        assert largest <= logs.BUFFER + 61_000
    assert path.stat().st_size == 200 * (len(STAMP) + 60_001)


async def test_a_full_disk_does_not_end_the_job(path, monkeypatch):
    """Lines that the disk refuses are counted, and the count is in the log once there is room again."""
    full = True
    write = os.write

    def full_disk(file: int, data: bytes) -> int:
        if full and data[-2:-1] != b"k":
            write(file, data[:3])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    async with open_log(path) as log:
        await log.line("ok")
        await log._flush()
        monkeypatch.setattr(os, "write", full_disk)
        await log.line("lost")
        await log._flush()
        full = False
        await log.line("back")
    assert path.read_text() == (
        STAMP
        + "ok\n"
        + STAMP
        + f"[runnerd] {len(STAMP) + 5} bytes are missing here: the disk refused them\n"
        + STAMP
        + "back\n"
    )


async def test_an_unusable_folder_does_not_end_the_job(tmp_path):
    """A log that cannot even be opened costs its lines, not the job."""
    (tmp_path / "logs").write_text("not a folder")
    async with open_log(log_path(tmp_path, 1, 1)) as log:
        await log.line("nowhere to go")
    assert (tmp_path / "logs").read_text() == "not a folder"


async def test_lines_of_background_steps_say_whose_they_are(path):
    """They stand between those of others; a step in the foreground needs no mark."""
    async with open_log(path) as log:
        await log.begin_step(1, background=True)
        await log.begin_step(2)
        await log.line("from two", 2)
        await log.line("from one", 1)
        await log.end_step(1)
        await log.line("from two again", 2)
    lines = [line[len(STAMP) :] for line in path.read_text().splitlines()]
    assert lines == ["from two", "[step 1] from one", "from two again"]


async def test_no_line_passes_for_another_steps(path):
    """What looks like a mark gets its own step's in front."""
    async with open_log(path) as log:
        await log.begin_step(3)
        await log.line("[step 1] I was not", 3)
    assert path.read_text() == STAMP + "[step 3] [step 1] I was not\n"


async def test_steps_side_by_side_have_limits_of_their_own(path):
    """One that logs too much keeps its head and tail; the other loses nothing."""
    async with open_log(path, limit_job=1 << 20, limit_step=10_000) as log:
        await log.begin_step(1, background=True)
        await log.begin_step(2)
        for number in range(3000):
            await log.line(f"loud {number:04}", 1)
            if number % 100 == 0:
                await log.line(f"quiet {number:04}", 2)
        await log.end_step(1)
        await log.end_step(2)
    text = path.read_text()
    assert "[step 1] loud 2999\n" in text
    assert text.count("loud") < 400
    assert text.count(STAMP + "quiet") == 30


async def test_the_tail_of_one_step(tmp_path):
    """The last lines between two times, without their own; open on the side where no time is given."""
    path = tmp_path / "9.log"
    path.write_text("".join(f"2026-11-23T18:22:{second:02}.500000Z line {second}\n" for second in range(60)))
    at = datetime(2026, 11, 23, 18, 22, tzinfo=UTC).timestamp()
    assert await tail(path, at + 10, at + 12.5) == "line 10\nline 11\nline 12"
    assert await tail(path, at + 10.5, at + 12.4) == "line 10\nline 11"
    assert await tail(path, None, None, 2) == "line 58\nline 59"
    assert await tail(path, at + 58, None) == "line 58\nline 59"
    assert await tail(path, None, at + 2, 5) == "line 0\nline 1"
    assert await tail(tmp_path / "none.log", None, None) == ""


async def test_the_tail_of_a_long_log(tmp_path):
    """Only its end is read, and the line in which that begins is left out."""
    path = tmp_path / "9.log"
    path.write_text("".join(f"2026-11-23T18:22:09.500000Z {n} {'x' * 1000}\n" for n in range(3000)))
    found = (await tail(path, None, None, 5000)).split("\n")
    assert found[-1].startswith("2999 ")
    assert len(found) < 1100
    assert all(line.partition(" ")[0].isdigit() for line in found)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (1, ["##[group]Run one", "from one", "[step 9] fake"]),
        (2, ["##[group]Run two", "from two", "[step 1] not one's"]),
        (3, ["##[group]Run three"]),
    ],
)
async def test_the_tail_of_a_step_beside_others(path, step, said):
    """Only its own lines, without the mark; what looks like another's mark is told apart."""
    async with open_log(path) as log:
        await log.begin_step(1, background=True)
        await log.begin_step(3, background=True)
        await log.begin_step(2)
        for number, text in (
            (1, "##[group]Run one"),
            (3, "##[group]Run three"),
            (2, "##[group]Run two"),
            (1, "from one"),
            (2, "from two"),
            (1, "[step 9] fake"),
            (2, "[step 1] not one's"),
        ):
            await log.line(text, number)
    assert (await tail(path, None, None, step=step)).split("\n") == said
