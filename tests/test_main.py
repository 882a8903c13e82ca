"""The program as a process: exit statuses, and how little a client's command loads."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 130
        finally:
            process.kill()
            os.close(writer)
        assert "Traceback" not in process.stderr.read()
