"""The tree of commands as a whole."""

import pytest
import typer

from runnerd import __version__
from runnerd.cli import app

DATA = ("plan", "lint", "status", "runs", "show", "cancel", "rerun", "drain", "pool", "send", "doctor", "run")
"""Commands that print data, beside the groups."""


def test_version(invoke) -> None:
    """The version is printed without a command."""
    assert invoke("--version").stdout == f"runnerd {__version__}\n"


def test_help(invoke) -> None:
    """Help lists every command a person types, and none that only make calls."""
    text = invoke("--help").stdout
    names = {line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line.strip()}
    assert set(app.COMMANDS) - set(app.HIDDEN) <= names
    assert not names & set(app.HIDDEN)


@pytest.mark.parametrize("name", [*app.COMMANDS, "image build", "image list", "config check", "config show"])
def test_every_command_has_help(invoke, name: str) -> None:
    """Each command explains itself."""
    result = invoke(*name.split(), "--help")
    assert result.exit_code == 0
    assert len(result.stdout.split("Usage:")[1]) > 100


@pytest.mark.parametrize("name", [*DATA, "image build", "image list", "config check", "config show"])
def test_data_comes_as_json_too(invoke, name: str) -> None:
    """Whatever prints data takes --json."""
    assert "--json" in invoke(*name.split(), "--help").stdout


def test_one_command_alone() -> None:
    """With the arguments known, only their command is loaded; an option or a mistake first loads all."""
    assert [command.name for command in app.build(("status", "-h")).registered_commands] == ["status"]
    assert isinstance(app.build(("config",)).registered_groups[0].typer_instance, typer.Typer)
    for arguments in ((), ("--help",), ("nonesuch",), ("nonesuch", "status")):
        assert len(app.build(arguments).registered_commands) > 10


def test_unknown_command(invoke) -> None:
    """A misspelt command is status 2."""
    assert invoke("stats").exit_code == 2
