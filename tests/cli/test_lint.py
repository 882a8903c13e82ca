"""`runnerd lint`: places, severities, exit status; and how files are found."""

import json
from pathlib import Path

import pytest

from runnerd.cli import lint
from runnerd.workflow import Problem

GOOD = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: true\n"
BAD = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - rnu: true\n"


@pytest.fixture
def folder(invoke) -> Path:
    path = Path.cwd() / ".github/workflows"
    path.mkdir(parents=True)
    return path


def test_good(invoke, folder: Path) -> None:
    """A good file gives no line and status 0; files of other kinds are not read."""
    (folder / "a.yml").write_text(GOOD)
    (folder / "README.md").write_text("not yaml: [")
    result = invoke("lint")
    assert (result.exit_code, result.output) == (0, "")


def test_bad(invoke, folder: Path) -> None:
    """Every problem is one line with its place, in the order of the files, and the status is 1."""
    (folder / "b.yaml").write_text(BAD)
    (folder / "a.yml").write_bytes(b"\xff\xfe\x00")
    result = invoke("lint")
    assert result.exit_code == 1
    first, *more = result.stdout.splitlines()
    assert first.startswith(".github/workflows/a.yml:1:1: error: ")
    assert more[0].startswith(".github/workflows/b.yaml:6:9: error: ")


def test_json(invoke, folder: Path) -> None:
    """Programs get the same as data."""
    (folder / "b.yml").write_text(BAD)
    problem = json.loads(invoke("lint", "--json").stdout)[0]
    assert (problem["path"], problem["line"], problem["severity"]) == (".github/workflows/b.yml", 6, "error")
    assert "rnu" in problem["message"]


def test_github_format(invoke, folder: Path) -> None:
    """Problems can be written as workflow commands."""
    (folder / "b.yml").write_text(BAD)
    line = invoke("lint", "--format", "github").stdout.splitlines()[0]
    assert line.startswith("::error file=.github/workflows/b.yml,line=6,col=9::")


def test_named_file(invoke, folder: Path) -> None:
    """A named file is read wherever it lies; an absent one is an error in it."""
    Path("x.yml").write_text(GOOD)
    assert invoke("lint", "x.yml").exit_code == 0
    result = invoke("lint", "absent.yml")
    assert result.exit_code == 1
    assert "absent.yml:1:1: error: cannot be read" in result.stdout


def test_nothing_to_lint(invoke) -> None:
    """Where there is no workflow file at all the status is 4."""
    assert invoke("lint").exit_code == 4


def test_command_is_escaped() -> None:
    """Nothing in a message or a path can end a workflow command or begin another."""
    problem = Problem(path="a,b:c.yml", line=1, column=2, severity="warning", message="100%\n::error::x")
    assert lint.command(problem) == "::warning file=a%2Cb%3Ac.yml,line=1,col=2::100%25%0A::error::x"


def test_beside(tmp_path: Path) -> None:
    """A reusable workflow is found from the root of the checkout, and nowhere else."""
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    (folder / "called.yml").write_text("called")
    resolve = lint.beside(folder / "caller.yml")
    assert resolve("./.github/workflows/called.yml") == "called"
    (tmp_path / "binary.yml").write_bytes(b"\xff")
    (tmp_path / "large.yml").write_bytes(b"#" * (lint.FILE_LIMIT + 1))
    for name, reason in (
        ("octo/cat/.github/workflows/x.yml@v1", "not in this checkout"),
        ("./../../etc/passwd", "not in this checkout"),
        ("./absent.yml", "cannot be read"),
        ("./binary.yml", "not UTF-8"),
        ("./large.yml", "larger than"),
    ):
        with pytest.raises(LookupError, match=reason):
            resolve(name)


def test_large_file(tmp_path: Path) -> None:
    """A file beyond the limit is refused before it is understood."""
    path = tmp_path / "a.yml"
    path.write_bytes(b"#" * (lint.FILE_LIMIT + 1))
    workflow, (problem,) = lint.read(path, "a.yml")
    assert workflow is None
    assert "larger than" in problem.message


def test_warnings_are_shown_and_harm_nothing(invoke, folder: Path) -> None:
    """What GitHub takes and is most likely not meant is said, in the file's order; the status stays 0."""
    zone = "on: {schedule: [{cron: '0 3 * * *', timezone: Mars/Olympus}]}\n"
    condition = "    if: ${{ github.ref }} == 'x'\n    runs-on"
    (folder / "a.yml").write_text(GOOD.replace("on: push\n", zone).replace("    runs-on", condition))
    result = invoke("lint")
    first, second = result.stdout.splitlines()
    assert result.exit_code == 0
    assert first.startswith(".github/workflows/a.yml:1:")
    assert "there is no time zone 'Mars/Olympus'" in first
    assert "warning: text around an expression" in second


def test_a_workflow_elsewhere(invoke, folder: Path) -> None:
    """A reusable workflow of another repository is not looked up, which is no error of the file."""
    remote = "on: push\njobs:\n  a: {uses: octo/cat/.github/workflows/x.yml@v1}\n"
    (folder / "a.yml").write_text(remote)
    result = invoke("lint")
    assert (result.exit_code, result.stdout.count("warning: ")) == (0, 1)
    assert "was not looked up: it is not in this checkout" in result.stdout


def test_actions_that_cannot_be_run_are_named(invoke, folder: Path) -> None:
    """As a warning at the step, also inside `parallel`: GitHub takes the file, and here its job fails."""
    uses = "      - uses: actions/checkout@v4\n      - uses: ./.github/actions/x\n"
    parallel = "      - parallel:\n          - uses: a/b@v1\n"
    (folder / "a.yml").write_text(GOOD + uses + parallel)
    result = invoke("lint")
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first.startswith(
        ".github/workflows/a.yml:8:9: warning: the action ./.github/actions/x cannot be run"
    )
    assert "the action a/b@v1 cannot" in second
