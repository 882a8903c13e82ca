"""The demo's steps against a daemon that plays its part; the real one is `make demo` itself."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import typer

from runnerd.cli import demo, demo_sample, image, send
from runnerd.cli.demo_daemon import DaemonDied
from runnerd.cli.demo_outcome import Host
from runnerd.model import Phase

from .test_demo_outcome import a_run, some_jobs


class Playing:
    """Plays a daemon whose one run has ended well, or as it is told."""

    def __init__(self, state: Path) -> None:
        self.port = 1
        self.state = state
        self.client = self
        self.delivery = ""
        self.dead = False
        self.ready_after: list[str] = ["the template is being built"]
        self.record = a_run(id=7, delivery="")
        self.jobs = some_jobs()

    def check(self) -> None:
        if self.dead:
            raise DaemonDied("the daemon ended by itself with status 1")

    def wait_ready(self, patience: float, tell: Callable[[str], None]) -> None:
        tell("; ".join(self.ready_after))

    def runs(self) -> list[Any]:
        return [{"id": 7, "delivery": self.delivery}]

    def run(self, run: int) -> Any:
        return json.loads(msgspec.json.encode({"run": self.record, "jobs": self.jobs}))

    def log(self, run: int, job: int, offset: int = 0) -> Any:
        record = self.jobs[job]
        said = ("", "hello, plain world", "hello, spicy world", "releasing version 1.2.3 of demo/hello")[job]
        text = (
            f"2026-11-23T18:22:10Z boot-id {record.boot_id}\n"
            f"2026-11-23T18:22:10Z machine-id {record.machine_id}\n2026-11-23T18:22:11Z {said}\n"
        )[offset:]
        return {"text": text, "next": offset + len(text), "end": not text}

    def post(self, url: str, event: str, delivery: str, body: bytes, secret: str) -> tuple[int, Any]:
        assert (url, event) == ("http://127.0.0.1:1/webhook", "push")
        assert json.loads(body)["repository"]["full_name"] == "demo/hello"
        self.delivery = delivery
        (self.state / "reports").mkdir()
        (self.state / "reports/7.md").write_text("# Hello #1: successful\n")
        (self.state / "reports/7.json").write_text('{"conclusion": "success"}')
        return 202, {"status": "success"}


@pytest.fixture
def playing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Playing:
    daemon = Playing(tmp_path)
    demo_sample.make(tmp_path / "sample", stamp="one")
    monkeypatch.setattr(send, "post", daemon.post)
    return daemon


def perform(daemon: Any) -> bool:
    return demo.perform(daemon, daemon.state, "secret")


def test_all_is_well(playing: Playing, capsys: pytest.CaptureFixture[str]) -> None:
    """The live log, the report, the times, the identities and the claims are printed, and all hold."""
    assert perform(playing)
    text = capsys.readouterr().out
    for expected in (
        "not ready yet: the template is being built",
        "test (plain) │ hello, plain world",
        "# Hello #1: successful",
        "webhook acknowledged",
        "this host",
        "✓ no two jobs had the same boot id",
    ):
        assert expected in text
    assert "✗" not in text


def test_a_claim_breaks(playing: Playing, capsys: pytest.CaptureFixture[str]) -> None:
    """One thing that does not hold fails the demo, and is named."""
    playing.jobs[2] = msgspec.structs.replace(playing.jobs[2], boot_id=playing.jobs[1].boot_id)
    assert not perform(playing)
    assert "✗ no two jobs had the same boot id" in capsys.readouterr().out


def test_a_refused_webhook(playing: Playing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any answer but 202 fails the demo."""
    monkeypatch.setattr(send, "post", lambda *_: (200, {"status": "acknowledged"}))
    assert not perform(playing)


def test_a_daemon_that_dies(playing: Playing) -> None:
    """A daemon that dies while the run goes on ends the demo at once."""
    playing.record = msgspec.structs.replace(playing.record, phase=Phase.RUNNING)
    timer = threading.Timer(0.3, setattr, (playing, "dead", True))
    timer.start()
    with pytest.raises(DaemonDied, match="status 1"):
        perform(playing)
    timer.join()


def test_a_delivery_that_is_not_planned(playing: Playing) -> None:
    """A delivery that becomes no run is given up after a while."""
    with pytest.raises(DaemonDied, match="not planned"):
        demo.find_run(playing, "other", patience=0.1)  # type: ignore[arg-type]


def test_wait_report(playing: Playing, tmp_path: Path) -> None:
    """The report counts when it has the run's conclusion, and its time is the file's."""
    path = tmp_path / "1.json"
    with pytest.raises(DaemonDied, match="was not written"):
        demo.wait_report(playing, path, patience=0.05)  # type: ignore[arg-type]
    path.write_text('{"conclusion": null}')
    with pytest.raises(DaemonDied, match="was not written"):
        demo.wait_report(playing, path, patience=0.05)  # type: ignore[arg-type]
    path.write_text('{"conclusion": "failure"}')
    assert abs(demo.wait_report(playing, path) - time.time()) < 60  # type: ignore[arg-type]


def test_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The image is built in the shared cache, with default settings whatever the user configured."""
    seen: list[Any] = []

    def ensure(settings: Any, name: str, *, preset: str, progress: Callable[[str], None]) -> Any:
        seen.append(settings)
        progress("fetching")
        return SimpleNamespace(digest="d" * 64)

    monkeypatch.setattr(image, "ensure", ensure)
    monkeypatch.setenv("RUNNERD_IMAGES_DEFAULT_PACKAGES", "nonesuch")
    state, cache = tmp_path / "cache/demo", tmp_path / "cache"
    demo.prepare(state, cache)
    demo.prepare(state, cache)
    assert (state / "images").resolve() == cache / "images"
    assert (state / "snapshots").resolve() == cache / "snapshots"
    assert seen[0].state_directory == state
    assert seen[0].images["default"].packages == ()
    assert "fetching" in capsys.readouterr().out


class Stopping(Playing):
    """Ends with the status it was told, and remembers that it was asked to."""

    status = 0
    stopped = 0
    log = Path("daemon.log")

    def tail(self) -> str:
        return "last words"

    def stop(self) -> int:
        self.stopped += 1
        return self.status


@pytest.mark.parametrize(
    ("held", "status", "code"), [(True, 0, None), (False, 0, 1), (True, 1, 1), (DaemonDied("it died"), 1, 1)]
)
def test_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    held: Any,
    status: int,
    code: int | None,
) -> None:
    """The demo succeeds only if all held and the daemon drained with status 0; it is ended in any case."""
    daemon = Stopping(tmp_path)
    daemon.status = status

    def act(*_: Any) -> bool:
        if isinstance(held, Exception):
            raise held
        return bool(held)

    monkeypatch.setattr(demo, "prepare", lambda *_: None)
    monkeypatch.setattr(demo, "DemoDaemon", lambda *_, **__: daemon)
    monkeypatch.setattr(demo, "perform", act)
    if code is None:
        demo.demo(tmp_path)
    else:
        with pytest.raises(typer.Exit) as caught:
            demo.demo(tmp_path)
        assert caught.value.exit_code == code
    assert daemon.stopped >= 1
    captured = capsys.readouterr()
    assert ("Everything held" in captured.out) == (code is None)
    assert ("last words" in captured.err) == isinstance(held, Exception)


def test_host() -> None:
    """The host's identity is read from where its jobs' are."""
    host = Host.of_this_machine()
    assert len(host.boot_id) == 36
    assert demo.identities([], host) == [("this host", host.boot_id, host.machine_id)]
