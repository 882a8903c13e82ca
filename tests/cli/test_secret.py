"""`runnerd secret`: kept without a daemon, never shown, never taken from the command line."""

import json
from pathlib import Path

from typer.testing import CliRunner

from runnerd.cli.app import build


def put(state: Path, name: str, value: str, *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(
        build(["secret"]), ["secret", "set", name, "--state", str(state), *more], input=value
    )
    return result.exit_code, result.output


def test_a_secret_is_set_listed_and_removed(invoke, tmp_path: Path) -> None:
    """The list shows names and places; the last line's end is not part of a value."""
    state = tmp_path / "state"
    state.mkdir()
    code, output = put(state, "key", "hunter2\n", "--repository", "octo/hello")
    assert (code, "hunter2" in output) == (0, False)
    assert (state / "secrets/repositories/octo/hello/KEY").read_text() == "hunter2"
    listed = invoke("secret", "list", "--state", str(state), "--json")
    (entry,) = json.loads(listed.stdout)
    assert (entry["name"], entry["repository"]) == ("KEY", "octo/hello")
    plain = invoke("secret", "list", "--state", str(state))
    assert "KEY" in plain.stdout
    assert "hunter2" not in plain.output + listed.output
    gone = ("secret", "remove", "KEY", "-r", "octo/hello", "--state", str(state))
    assert [invoke(*gone).exit_code, invoke(*gone).exit_code] == [0, 4]


def test_what_cannot_be_kept_is_said(invoke, tmp_path: Path) -> None:
    """A bad name, GitHub's own, an empty value: exit status 2, and nothing of the value shown."""
    for name, value in (("GITHUB_TOKEN", "hunter2"), ("1x", "hunter2"), ("KEY", "")):
        code, output = put(tmp_path, name, value)
        assert (code, "hunter2" in output) == (2, False), name


def test_a_value_is_no_argument(invoke, tmp_path: Path) -> None:
    """Every user of a host sees the arguments of its processes."""
    assert invoke("secret", "set", "KEY", "hunter2", "--state", str(tmp_path)).exit_code == 2
