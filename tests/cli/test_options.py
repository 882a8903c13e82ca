"""Options that several commands share."""

from pathlib import Path

import pytest
import typer

from runnerd.cli import options


def test_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """NAME=VALUE may hold more equals signs; a bare name is looked up where that is allowed."""
    monkeypatch.setenv("TOKEN", "from environment")
    assert options.pairs("--input", ["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    assert options.pairs("--secret", ["TOKEN", "X=1"], from_environment=True) == {
        "TOKEN": "from environment",
        "X": "1",
    }


@pytest.mark.parametrize(
    ("given", "from_environment", "message"),
    [
        ("a", False, "--input wants NAME=VALUE, not 'a'"),
        ("=1", False, "--input wants NAME=VALUE, not '=1'"),
        ("NO_SUCH_VARIABLE", True, "--input NO_SUCH_VARIABLE has no value"),
    ],
)
def test_pairs_that_are_none(
    given: str, from_environment: bool, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no pair ends the command with a sentence and status 2."""
    with pytest.raises(typer.Exit) as caught:
        options.pairs("--input", [given], from_environment=from_environment)
    assert caught.value.exit_code == 2
    assert message in capsys.readouterr().err


def test_load_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags reach their dotted keys, and a file given on the command line is the one that is read."""
    monkeypatch.delenv("PORT", raising=False)
    path = tmp_path / "c.toml"
    path.write_text('[server]\nhost = "::1"\n')
    config = options.load_config(path, server__port=5, state_directory=None)
    assert (config.server.host, config.server.port) == ("::1", 5)


def test_load_config_with_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every problem is printed, and the command ends with status 2."""
    path = tmp_path / "c.toml"
    path.write_text("[server]\nport = -1\nprot = 2\n")
    with pytest.raises(typer.Exit) as caught:
        options.load_config(path)
    assert caught.value.exit_code == 2
    error = capsys.readouterr().err
    assert f"{path}:2:1" in error
    assert f"{path}:3:1" in error


def test_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --config the usual places are searched."""
    monkeypatch.setenv("RUNNERD_CONFIG", str(tmp_path / "x.toml"))
    assert options.config_file(None) == tmp_path / "x.toml"
    assert options.config_file(Path("y.toml")) == Path("y.toml").absolute()


def test_start_logging(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Logs follow RUNNERD_LOG and hide every configured secret."""
    from runnerd import log

    monkeypatch.setattr(log, "_hidden", ())
    monkeypatch.setenv("RUNNERD_LOG", "debug")
    monkeypatch.setenv("GITHUB_TOKEN", "hunter2-token")
    options.start_logging(options.load_config(None))
    log.get("x").debug("using hunter2-token")
    log.configure(level="warning")
    error = capsys.readouterr().err
    assert "using ***" in error
    assert "hunter2" not in error


def test_a_quiet_command_writes_its_warnings_as_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person reads them, wherever they go; what a daemon writes into a file is JSON."""
    from runnerd import log

    for quiet, first in ((True, " warning x: careful"), (False, '{"time":')):
        options.start_logging(options.load_config(None), quiet=quiet)
        log.get("x").info("not said" if quiet else "said")
        log.get("x").warning("careful")
        assert first in capsys.readouterr().err.splitlines()[0]
    log.configure(level="warning")
