"""`runnerd run`: its options as the daemon's one-time entry gets them."""

from pathlib import Path
from typing import Any

import pytest

from runnerd import daemon


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Nothing is run: the call is remembered and ends with status 1."""
    seen: list[Any] = []

    def run_once(path: Path, **options: Any) -> int:
        seen.append((path, options))
        return 1

    monkeypatch.setattr(daemon, "run_once", run_once)
    return seen


def test_defaults(invoke, ran: list[Any]) -> None:
    """Without options the current folder's workflows are run for a push; the status is the run's."""
    assert invoke("run").exit_code == 1
    ((path, options),) = ran
    assert path == Path.cwd()
    config = options.pop("config")
    assert config.machines.driver_name == "qemu"
    assert options == {
        "workflow_files": [], "job": None, "event": "push", "payload": None, "inputs": {}, "secrets": {},
        "variables": {}, "env": {}, "driver": None, "json": False,
    }  # fmt: skip


def test_options(invoke, ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option arrives; a secret may come from the environment, and no secret's value is ever logged."""
    from runnerd import log

    monkeypatch.setattr(log, "_hidden", ())
    Path("sub").mkdir()
    Path("p.json").write_text("{}")
    words = "run sub -W a.yml -W b.yml -j test --event workflow_dispatch --payload p.json -i n=1"
    more = "-s TOKEN -s K=v=w --var V=2 --env E=3 --driver process --json"
    result = invoke(*words.split(), *more.split(), TOKEN="hunter2")
    assert result.exit_code == 1, result.output
    ((path, options),) = ran
    assert path == Path.cwd() / "sub"
    assert options.pop("config").machines.driver_name == "process"
    assert options == {
        "workflow_files": ["a.yml", "b.yml"], "job": "test", "event": "workflow_dispatch",
        "payload": Path("p.json"), "inputs": {"n": "1"}, "secrets": {"TOKEN": "hunter2", "K": "v=w"},
        "variables": {"V": "2"}, "env": {"E": "3"}, "driver": "process", "json": True,
    }  # fmt: skip
    assert log.hide("hunter2 v=w") == "*** ***"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent",), "is not a folder"),
        (("--payload", "absent"), "is not a file"),
        (("-i", "x"), "wants NAME=VALUE"),
        (("-s", "NO_SUCH_SECRET"), "has no value"),
        (("--driver", "nonesuch"), "machines.driver must be one of"),
    ],
)
def test_usage(invoke, ran: list[Any], arguments: tuple[str, ...], message: str) -> None:
    """What cannot be run says why, with status 2, and nothing is started."""
    result = invoke("run", *arguments)
    assert (result.exit_code, message in result.stderr) == (2, True)
    assert ran == []
