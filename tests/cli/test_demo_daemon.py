"""The demo's daemon as a child process: waited for, asked why not, ended in order."""

import socket
import sys
import tomllib
from pathlib import Path

import pytest

from runnerd.cli import demo_daemon
from runnerd.cli.demo_daemon import DaemonDied, DemoDaemon
from runnerd.config import load

SCRIPT = """\
import http.server, json, os, signal, sys, tomllib
from pathlib import Path

settings = tomllib.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
print("started with", len(os.environ["GITHUB_WEBHOOK_SECRET"]), "characters", flush=True)
answers = [(503, {"problems": [{"name": "x", "sentence": "warming up"}]}), (200, {})]

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass

signals = []

def on_term(*_):
    signals.append(1)
    if len(signals) >= int(sys.argv[1]):
        os._exit(len(signals) - 1)

signal.signal(signal.SIGTERM, on_term)
port = int(settings["server"]["metrics"].rpartition(":")[2])
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


def start(tmp_path: Path, script: str, *arguments: str) -> DemoDaemon:
    state, runtime = tmp_path / "state", tmp_path / "run"
    for folder in (state, runtime):
        folder.mkdir()
    return DemoDaemon(state, runtime, secret="s" * 10, command=(sys.executable, "-c", script, *arguments))


def test_life(tmp_path: Path) -> None:
    """The daemon is waited for, its reasons are told, its words are kept, and SIGTERM ends it."""
    daemon = start(tmp_path, SCRIPT, "1")
    try:
        told: list[str] = []
        daemon.wait_ready(60, told.append)
        assert told == ["warming up"]
        daemon.check()
        assert daemon.tail() == "started with 10 characters"
    finally:
        assert daemon.stop() == 0
    assert daemon.stop() == 0
    with pytest.raises(DaemonDied, match="ended by itself with status 0"):
        daemon.check()


def test_stubborn(tmp_path: Path) -> None:
    """A daemon that does not end is asked again, and then killed."""
    daemon = start(tmp_path, SCRIPT, "3")
    daemon.wait_ready(60, lambda reason: None)
    assert daemon.stop((0.3, 0.3, 30)) == 2
    again = tmp_path / "again"
    again.mkdir()
    daemon = start(again, SCRIPT, "99")
    daemon.wait_ready(60, lambda reason: None)
    assert daemon.stop((0.2,)) == -9


def test_death(tmp_path: Path) -> None:
    """A daemon that dies while it is waited for is noticed at once, and its last words are there."""
    daemon = start(tmp_path, "import sys; print('no luck'); sys.exit(7)")
    with pytest.raises(DaemonDied, match="status 7"):
        daemon.wait_ready(60, lambda reason: None)
    assert daemon.tail() == "no luck"
    assert daemon.stop() == 7


def test_impatience(tmp_path: Path) -> None:
    """A daemon that does not become ready in time is given up with its reason."""
    daemon = start(tmp_path, SCRIPT.replace(", (200, {})", ""), "1")
    try:
        with pytest.raises(DaemonDied, match=r"not ready after 1 s: (warming up|no answer)"):
            daemon.wait_ready(1, lambda reason: None)
    finally:
        daemon.stop()


def test_config_text(tmp_path: Path) -> None:
    """What the demo writes is a good configuration, also where the path has quotes and spaces."""
    state = tmp_path / 'a "b" ü'
    state.mkdir()
    path = state / "config.toml"
    path.write_text(demo_daemon.config_text(state, 1, 2), "utf-8")
    tomllib.loads(path.read_text("utf-8"))
    config = load(path, environ={"HOME": "/nonexistent"})
    assert config.remote_of("demo/hello") == str(state / "sample")
    assert (config.server.port, config.server.metrics_address) == (1, ("127.0.0.1", 2))


def test_clean_environment() -> None:
    """Nothing that configures a daemon, or a token of the user's, reaches the demo's."""
    environ = {
        "PATH": "/bin",
        "GITHUB_TOKEN": "x",
        "RUNNERD_LOG": "debug",
        "PORT": "1",
        "NOTIFY_SOCKET": "/x",
    }
    assert demo_daemon.clean_environment(environ) == {"PATH": "/bin"}


def test_free_ports() -> None:
    """The ports differ and can be listened on."""
    ports = demo_daemon.free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()
