"""The program as a process: exit statuses, and how little a client's command loads."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from runnerd.__main__ import refusal

HEAVY = {
    *(
        "alembic",
        "httpx",
        "hypercorn",
        "jinja2",
        "msgspec",
        "prometheus_client",
        "quart",
        "quart_trio",
        "rich",
    ),
    *("ruamel", "sqlalchemy", "structlog", "trio"),
}


def program(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runnerd", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_status_without_daemon(tmp_path: Path) -> None:
    """A command whose daemon is not there exits 3."""
    result = program("status", RUNNERD_SOCKET=str(tmp_path / "absent.sock"))
    assert result.returncode == 3
    assert result.stderr.startswith("runnerd: ")


def test_no_command() -> None:
    """Without a command the program explains itself and exits 2."""
    result = program()
    assert result.returncode == 2
    assert "Commands:" in result.stdout + result.stderr


def test_client_commands_load_little(tmp_path: Path) -> None:
    """`runnerd status` loads none of the daemon's libraries, so that it answers at once."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(sorted({name.partition('.')[0] for name in sys.modules})))\n"
        "sys.argv = ['runnerd', 'status']\n"
        "from runnerd.__main__ import main\n"
        "main()\n"
    )
    environ = {"PATH": os.environ["PATH"], "RUNNERD_SOCKET": str(tmp_path / "absent.sock")}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 3
    loaded = set(result.stdout.strip("[]\n").replace("'", "").split(", "))
    assert "typer" in loaded
    assert not loaded & HEAVY


def test_what_the_host_refuses_is_a_sentence(tmp_path: Path) -> None:
    """A full disk, or a file where a folder is wanted: no trace, unless somebody debugs."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "runnerd", "config", "show"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (result.returncode, result.stderr.partition(" (")[0]) == (1, "runnerd: No space left on device")
    (tmp_path / "file").touch()
    environ = {
        "HOME": str(tmp_path),
        "GITHUB_WEBHOOK_SECRET": "s",
        "RUNTIME_DIRECTORY": str(tmp_path / "file"),
    }
    result = program("serve", **environ)
    assert (result.returncode, "Traceback" in result.stderr) == (1, False)
    assert str(tmp_path / "file") in result.stderr
    assert "Traceback" in program("serve", **environ, RUNNERD_LOG="debug").stderr


def test_a_refusal_is_found_in_groups() -> None:
    """By its file where it names one; what is no refusal of the host's is none."""
    error = ExceptionGroup("g", [ExceptionGroup("h", [PermissionError(13, "Permission denied", "/etc/x")])])
    assert refusal(error) == "/etc/x: Permission denied"
    assert refusal(OSError("the mirror is gone")) == "the mirror is gone"
    assert refusal(ExceptionGroup("g", [OSError(), OSError()])) is None
    assert refusal(ValueError("x")) is None


@pytest.mark.parametrize(
    "error", ["KeyboardInterrupt", "BaseExceptionGroup('', [BaseExceptionGroup('', [KeyboardInterrupt()])])"]
)
def test_interrupted_elsewhere(error: str) -> None:
    """Ctrl-C while the program is being loaded, or out of the nurseries that it ended, is as quiet."""
    code = (
        "import sys, types\n"
        "class Broken(types.ModuleType):\n"
        f"    def __getattr__(self, name): raise {error}\n"
        "sys.modules['runnerd.cli.app'] = Broken('app')\n"
        "from runnerd.__main__ import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends a command with status 130 and without a trace."""
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-m", "runnerd", "eval", "1", "--contexts", str(tmp_path / "pipe")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    with process.stderr:
        while "pipe" not in Path(f"/proc/{process.pid}/cmdline").read_text():
            time.sleep(0.01)
        writer = os.open(tmp_path / "pipe", os.O_WRONLY)  # returns once the command reads
        try:
            status = None
            for _ in range(6):  # not heard if it comes just before the wait: a person presses again
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    status = process.wait(10)
                    break
            assert status == 130
        finally:
            process.kill()
            os.close(writer)
        assert "Traceback" not in process.stderr.read()
