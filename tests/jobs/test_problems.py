"""Problem matchers in a job: the files of its machine, the process, the annotations."""

from __future__ import annotations

import json
import os
import signal

import pytest
import trio

from runnerd.jobs.matchers import BadMatcher, Found
from runnerd.jobs.problems import Problems
from runnerd.model import Outcome

WORD = {"owner": "word", "pattern": [{"regexp": "^bad (.*)$", "message": 1}]}


class Files:
    """A machine's files, in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []

    def put(self, path: str, *matchers) -> str:
        self.files[path] = json.dumps({"problemMatcher": matchers}).encode()
        return path

    async def read(self, path: str, limit: int) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(f"there is no {path}")
        return self.files[path]

    async def is_file(self, path: str) -> bool:
        self.asked.append(path)
        return path in self.files


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
async def problems(files):
    problems = Problems(files.read, files.is_file, "/w")
    yield problems
    await problems.close()


async def test_a_file_of_the_workspace_gives_matchers(problems, files):
    """Until its owner is removed; nothing is looked for without one."""
    files.put("/w/m.json", WORD)
    assert not problems.looking
    await problems.add("m.json")
    assert problems.looking
    assert await problems.look(1, ["fine", "\x1b[31mbad\x1b[0m luck"]) == ({1: Found(message="luck")}, [])
    await problems.remove(owner="Word")
    assert not problems.looking


async def test_a_file_removes_what_it_gave(problems, files):
    """All its owners."""
    files.put("/elsewhere/m.json", WORD, {**WORD, "owner": "other"})
    await problems.add("/elsewhere/m.json")
    await problems.remove(path="/elsewhere/m.json")
    assert not problems.looking


async def test_a_bad_file_changes_nothing(problems, files):
    """What was there still looks."""
    await problems.add(files.put("/w/m.json", WORD))
    with pytest.raises(BadMatcher):
        await problems.add(
            files.put("/w/bad.json", {"owner": "word", "pattern": [{"regexp": "(", "message": 0}]})
        )
    with pytest.raises(FileNotFoundError):
        await problems.add("none.json")
    assert (await problems.look(1, ["bad luck"]))[0] == {0: Found(message="luck")}


async def test_a_pattern_that_wants_all_memory_costs_only_itself(problems, files):
    """The process dies of it, the daemon does not, and the matchers of before still look."""
    await problems.add(files.put("/w/m.json", WORD))
    nested = "(?:" * 30 + "a*|b" + "){2,}" * 30
    with pytest.raises(BadMatcher, match="too much time or memory"):
        await problems.add(
            files.put("/w/evil.json", {"owner": "evil", "pattern": [{"regexp": nested, "message": 0}]})
        )
    assert (await problems.look(1, ["bad luck"]))[0] == {0: Found(message="luck")}


async def test_a_slow_pattern_is_removed_with_a_warning(problems, files):
    """The others stay."""
    slow = {"owner": "slow", "pattern": [{"regexp": "^((a|aa)+)+$", "message": 1}]}
    await problems.add(files.put("/w/m.json", WORD, slow))
    found, warnings = await problems.look(1, ["a" * 5000 + "b", "bad luck"])
    assert found == {1: Found(message="luck")}
    assert "'slow' took too long" in warnings[0]


async def test_a_process_that_died_over_lines_switches_the_matchers_off(problems, files):
    """It is not known which one it was; the job goes on, warned."""
    await problems.add(files.put("/w/m.json", WORD))
    os.kill(problems._process.pid, signal.SIGKILL)
    found, warnings = await problems.look(1, ["bad luck"])
    assert (found, problems.looking) == ({}, False)
    assert "switched off" in warnings[0]


async def test_a_cancelled_question_leaves_no_answer_behind(problems, files):
    """The next one gets its own."""
    await problems.add(files.put("/w/m.json", WORD))
    with trio.CancelScope() as scope:
        scope.cancel()
        await problems.look(1, ["bad luck"])
    assert (await problems.look(1, ["fine", "bad day"]))[0] == {1: Found(message="day")}


async def test_the_process_ends_with_the_job(files):
    """Closing twice is safe, and nothing is left of it."""
    problems = Problems(files.read, files.is_file, "/w")
    await problems.add(files.put("/w/m.json", WORD))
    pid = problems._process.pid
    await problems.close()
    await problems.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("file", "from_path", "path"),
    [
        ("src/a.c", "", "src/a.c"),
        ("/w/src/a.c", "", "src/a.c"),
        ("../src/a.c", "/w/build/x.proj", "src/a.c"),
        ("a.c", "src/x.proj", "src/a.c"),
        ("../etc/passwd", "", ""),
        ("/etc/passwd", "", ""),
        ("nowhere.c", "", ""),
        (" ", "", ""),
        ("a\0.c", "", ""),
    ],
)
async def test_a_path_is_one_of_the_workspaces_files_or_none(problems, files, file, from_path, path):
    """Relative to the workspace or to the folder of `fromPath`; what is not there is left out."""
    files.files = {"/w/src/a.c": b"", "/etc/passwd": b""}
    note = await problems.annotation(Found(file=file, from_path=from_path, message="m"), 3)
    assert (note.path, note.step, note.level) == (path, 3, "error")


async def test_a_column_needs_a_line(problems):
    """What is no number is left out."""
    note = await problems.annotation(Found(message="m", line="x", column="3"), 1)
    assert (note.line, note.column) == (None, None)


async def test_the_machine_is_asked_once_for_a_file(problems, files):
    """However many problems are in it."""
    for _ in range(3):
        await problems.annotation(Found(file="a.c", message="m"), 1)
    assert files.asked == ["/w/a.c"]


async def test_a_step_adds_a_matcher_and_later_steps_are_annotated(bench):
    """The whole way: the file in the workspace, the lines of the next step, masked, and the removal."""
    result = await bench.steps(
        """
        - run: |
            mkdir src; touch src/a.c
            cat > m.json <<'E'
            {"problemMatcher": [{"owner": "cc", "pattern": [  // gcc
              {"regexp": "^(.*):(\\\\d+):(\\\\d+): (warning|error): (.*)$",
               "file": 1, "line": 2, "column": 3, "severity": 4, "message": 5}]}]}
            E
            echo "::add-matcher::m.json"
        - run: |
            echo fine
            echo "src/a.c:3:7: warning: hunter2secret"
            echo "::remove-matcher owner=cc::"
            echo "src/a.c:4:7: warning: no more"
        """,
        secrets={"KEY": "hunter2secret"},
    )
    assert result.outcome is Outcome.SUCCESS
    assert bench.log.output(2) == [
        "fine",
        "##[warning]src/a.c:3:7: warning: ***",
        "src/a.c:4:7: warning: no more",
    ]
    (note,) = result.annotations
    assert (note.level, note.path, note.line, note.column, note.message) == (
        "warning",
        "src/a.c",
        3,
        7,
        "***",
    )


async def test_a_matcher_that_cannot_be_added_fails_the_step(bench):
    """As at GitHub; what is missing from the command is only a warning."""
    result = await bench.steps(
        """
        - run: echo '::add-matcher::none.json'
        - if: always()
          run: "echo ::add-matcher::"
        """
    )
    assert [str(step.outcome) for step in result.steps] == ["failure", "success"]
    assert [note.level for note in result.annotations] == ["error", "warning"]
