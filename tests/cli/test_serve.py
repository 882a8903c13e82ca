"""`runnerd serve`: what it refuses before anything starts, and what it hands to the daemon."""

from typing import Any

import pytest

from runnerd import daemon
from runnerd.config import Config


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The daemon itself is not started: its configuration is remembered, and it ends with status 0."""
    seen: list[Config] = []

    def serve(config: Config) -> int:
        seen.append(config)
        return 0

    monkeypatch.setattr(daemon, "serve", serve)
    return seen


def test_without_a_secret(invoke, served: list[Config]) -> None:
    """Without a webhook secret there is a sentence, status 2, and no daemon."""
    result = invoke("serve")
    assert result.exit_code == 2
    assert result.stderr.startswith("runnerd: no webhook secret: set GITHUB_WEBHOOK_SECRET")
    assert served == []


def test_flags(invoke, served: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags win over the environment and reach the daemon."""
    from runnerd import log

    monkeypatch.setattr(log, "_hidden", ())
    result = invoke("serve", "--port", "0", "--driver", "process", GITHUB_WEBHOOK_SECRET="hunter2!", PORT="5")
    assert result.exit_code == 0, result.output
    (config,) = served
    assert (config.server.port, config.machines.driver_name) == (0, "process")
    assert log.hide("x hunter2! y") == "x *** y"
    log.configure(level="warning")


@pytest.mark.parametrize("arguments", [("--port", "70000"), ("--driver", "nonesuch"), ("--port", "x")])
def test_bad_flags(invoke, served: list[Config], arguments: tuple[str, ...]) -> None:
    """A flag with a bad value is status 2 and starts nothing."""
    assert invoke("serve", *arguments, GITHUB_WEBHOOK_SECRET="s").exit_code == 2
    assert served == []


def test_exit_status(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's exit status is the command's."""
    status: Any = lambda config: 5  # noqa: E731
    monkeypatch.setattr(daemon, "serve", status)
    assert invoke("serve", GITHUB_WEBHOOK_SECRET="some secret").exit_code == 5
