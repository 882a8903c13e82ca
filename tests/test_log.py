"""What a log line holds, what it hides, and that logging never fails its caller."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from runnerd import log


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(log, "_hidden", ())
    yield
    log.configure(level="warning")


@pytest.fixture
def stream() -> io.StringIO:
    out = io.StringIO()
    log.configure(level="info", json=True, stream=out)
    return out


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_line(stream: io.StringIO) -> None:
    """A line is one JSON object with time, level, module and event, then the fields as given."""
    log.get("runnerd.x").info("job ended", job=7, path=Path("/tmp"), seconds=1.5)
    (line,) = lines(stream)
    assert list(line)[:4] == ["time", "level", "module", "event"]
    assert str(line["time"]).endswith("Z")
    assert line["level"] == "info"
    assert line["module"] == "runnerd.x"
    assert line["event"] == "job ended"
    assert (line["job"], line["path"], line["seconds"]) == (7, "/tmp", 1.5)


def test_level(stream: io.StringIO) -> None:
    """Lines below the configured level are dropped; a later configure holds for loggers made before."""
    logger = log.get("x")
    logger.debug("hidden")
    log.configure(level="debug", json=True, stream=stream)
    logger.debug("shown")
    assert [line["event"] for line in lines(stream)] == ["shown"]


def test_unknown_level() -> None:
    """A misspelt level is refused with the levels there are."""
    with pytest.raises(ValueError, match="debug, info, warning, error"):
        log.configure(level="loud")


def test_context(stream: io.StringIO) -> None:
    """Context fields are on every line inside the block and on none after it."""
    with log.context(run=1), log.context(job=2):
        log.get("x").info("inside")
    log.get("x").info("outside")
    inside, outside = lines(stream)
    assert (inside["run"], inside["job"]) == (1, 2)
    assert "run" not in outside


async def test_context_of_tasks(stream: io.StringIO) -> None:
    """A task inherits the context it was started in, and its own additions stay its own."""

    async def child(number: int) -> None:
        with log.context(job=number):
            await trio.lowlevel.checkpoint()
            log.get("x").info("child")

    with log.context(run=9):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, 1)
            nursery.start_soon(child, 2)
    assert {(line["run"], line["job"]) for line in lines(stream)} == {(9, 1), (9, 2)}


@pytest.mark.parametrize("as_json", [True, False])
def test_redaction(as_json: bool) -> None:
    """A redacted value appears nowhere: not in events, fields, keys, quoted forms or tracebacks."""
    stream = io.StringIO()
    log.configure(json=as_json, stream=stream)
    secret = 'hun"ter\\zwei\n-----secondlüne-----'
    log.redact(secret, "")
    logger = log.get("x")
    logger.info(f"got {secret}", field=secret, nested={"deep": [secret]}, shown=repr(secret))
    logger.info("only a part: -----secondlüne-----", ascii=json.dumps("-----secondlüne-----"))
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        logger.exception("boom")
    text = stream.getvalue()
    for part in ("hun", "zwei", "secondl"):
        assert part not in text
    assert "***" in text
    assert "boom" in text


def test_redaction_of_blank(stream: io.StringIO) -> None:
    """Registering nothing hides nothing."""
    log.redact("", "  ", "\n")
    log.get("x").info("two  spaces")
    assert lines(stream)[0]["event"] == "two  spaces"


def test_longer_secret_first() -> None:
    """A secret that contains another leaves no remainder behind."""
    log.redact("abc", "abcdef")
    assert log.hide("x abcdef y abc") == "x *** y ***"


def test_terminal_line() -> None:
    """On a terminal a line is short and coloured by its level, and control characters are escaped."""
    stream = Terminal()
    log.configure(stream=stream)
    log.get("runnerd.web").warning("odd branch", branch="a\x1b[2Jb", count=2)
    text = stream.getvalue()
    assert 'runnerd.web: odd branch branch="a\\u001b[2Jb" count=2' in text
    assert text.startswith("\x1b[33m")
    assert text.endswith("\x1b[0m\n")


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("value", [Unprintable(), "\ud800", {("a",): 1}, float("nan")])
def test_odd_values(value: object, as_json: bool) -> None:
    """A value that cannot be rendered still gives a line and raises nothing."""
    stream = io.StringIO()
    log.configure(json=as_json, stream=stream)
    log.get("x").info("odd", value=value)
    assert "odd" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_closed_stream() -> None:
    """A stream that is gone is no reason to fail."""
    stream = io.StringIO()
    log.configure(json=True, stream=stream)
    stream.close()
    log.get("x").info("into the void")


def test_default_is_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a stream, lines go to standard error and never to standard output."""
    log.configure(json=True)
    log.get("x").info("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err
