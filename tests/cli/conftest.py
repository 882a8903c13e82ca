"""Commands run in this process, with an environment of their own."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from runnerd.cli.app import build

Invoke = Callable[..., Result]


@pytest.fixture
def home(short: Path) -> Path:
    path = short / "home"
    path.mkdir()
    return path


@pytest.fixture
def invoke(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command in an empty folder, with an empty home and nothing configured."""
    for name in (
        "PORT",
        "HOST",
        "GITHUB_TOKEN",
        "GITHUB_WEBHOOK_SECRET",
        "STATE_DIRECTORY",
        "XDG_STATE_HOME",
        *(name for name in os.environ if name.startswith("RUNNERD_")),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*arguments: str, **environ: str) -> Result:
        return CliRunner().invoke(build(), list(arguments), env=environ)

    return run
