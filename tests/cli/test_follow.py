"""Following a run: every line once, in order, with its job's name, until the end."""

from collections.abc import Callable
from typing import Any

import pytest

from runnerd.cli.follow import Follower, follow


class Scripted:
    """A daemon whose run goes on at every look: a frame is the run's phase and its jobs with their logs."""

    def __init__(self, *frames: tuple[str, dict[int, tuple[str, bytes]]]) -> None:
        self.frames = list(frames)
        self.now = self.frames[0]

    def run(self, run: int) -> Any:
        self.now = self.frames.pop(0) if len(self.frames) > 1 else self.frames[0]
        phase, jobs = self.now
        seen = [
            {
                "id": number,
                "name": "job" + "x" * number,
                "phase": state,
                "started": 1.0 if state in ("running", "done") else None,
                "outcome": "success" if state == "done" else None,
                "reason": "",
            }
            for number, (state, _) in jobs.items()
        ]
        return {"run": {"phase": phase}, "jobs": seen}

    def log(self, run: int, job: int, offset: int = 0) -> Any:
        state, data = self.now[1][job]
        text = data[offset : data.find(b"\n", offset) + 1].decode()
        return {"text": text, "next": offset + len(text), "end": state == "done"}


def lines(*texts: str) -> bytes:
    return b"".join(b"2026-11-23T18:22:09.1Z " + text.encode() + b"\n" for text in texts)


def shown(daemon: Scripted, **options: Any) -> list[str]:
    said: list[str] = []
    naps: list[float] = []
    assert follow(Follower(daemon, 1, show=said.append, **options), sleep=naps.append)
    return said


ONE = ("running", {1: ("running", lines("a")), 2: ("waiting", b"")})
TWO = ("running", {1: ("running", lines("a", "b")[:-3]), 2: ("running", lines("x"))})
END = ("done", {1: ("done", lines("a", "b")), 2: ("done", lines("x", "y"))})


def test_every_line_once() -> None:
    """Lines appear as they come, whole, once, each with its job's name, and then the outcome."""
    assert shown(Scripted(ONE, TWO, END)) == [
        "jobx  │ a",
        "jobxx │ x",
        "jobx  │ b",
        "jobx  │ success",
        "jobxx │ y",
        "jobxx │ success",
    ]


def test_one_job() -> None:
    """Following one job shows its lines alone, bare, and ends with the job."""
    still = ("running", {1: END[1][1], 2: ("running", b"")})
    assert shown(Scripted(ONE, still), only=1) == ["a", "b", "success"]


def test_job_that_never_started() -> None:
    """A job that was skipped has no lines, but its outcome is said."""
    frame = ("done", {1: ("done", b"")})
    assert shown(Scripted(frame)) == ["jobx │ success"]


@pytest.mark.parametrize(("colour", "text"), [(True, "\x1b[31mred\x1b[0m"), (False, "red")])
def test_control_sequences(colour: bool, text: str) -> None:
    """Output keeps its colours on a terminal; nothing else in it reaches the terminal."""
    frame = ("done", {1: ("done", lines("\x1b[31mred\x1b[0m\x1b[2J\x07"))})
    assert shown(Scripted(frame), only=1, colour=colour)[0] == text


def test_markers() -> None:
    """Markers for folding and levels become words; a stranger's marker stays as it is."""
    frame = (
        "done",
        {1: ("done", lines("##[group]Run x", "y", "##[endgroup]", "##[error]no", "##[odd]", "##["))},
    )
    assert shown(Scripted(frame), only=1) == ["▸ Run x", "y", "error: no", "##[odd]", "##[", "success"]
    assert shown(Scripted(frame), only=1, colour=True)[2] == "\x1b[31merror: no\x1b[0m"


def test_patience() -> None:
    """A run that does not end within the patience is given up."""
    naps: list[float] = []
    nothing: Callable[[str], None] = lambda line: None  # noqa: E731
    assert not follow(Follower(Scripted(ONE), 1, show=nothing), sleep=naps.append, patience=1)
    assert sum(naps) == pytest.approx(1.0, abs=0.11)


def test_marks_of_steps_in_the_background() -> None:
    """They stay in front of what becomes of the line; nothing is left of the end of a group."""
    said = ("[step 3] ##[group]Run x", "[step 3] y", "[step 3] ##[endgroup]", "[step 3] [step 1] ##[error]no")
    frame = ("done", {1: ("done", lines(*said))})
    assert shown(Scripted(frame), only=1)[:3] == [
        "[step 3] ▸ Run x",
        "[step 3] y",
        "[step 3] [step 1] ##[error]no",
    ]
