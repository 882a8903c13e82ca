"""Which folders and files the environment leads to."""

from pathlib import Path

from runnerd.config import paths

HOME = {"HOME": "/home/me"}


def test_state_directory() -> None:
    """systemd's folder wins (the first of several), then XDG's, then the home's."""
    assert paths.state_directory({**HOME, "STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}) == Path("/var/lib/a")
    assert paths.state_directory({**HOME, "XDG_STATE_HOME": "/x"}) == Path("/x/runnerd")
    assert paths.state_directory(HOME) == Path("/home/me/.local/state/runnerd")


def test_runtime_directory() -> None:
    """systemd's folder, else the session's, else one in the state."""
    assert paths.runtime_directory({**HOME, "RUNTIME_DIRECTORY": "/run/runnerd"}) == Path("/run/runnerd")
    assert paths.runtime_directory({**HOME, "XDG_RUNTIME_DIR": "/run/user/1"}) == Path("/run/user/1/runnerd")
    assert paths.runtime_directory({"STATE_DIRECTORY": "/s"}) == Path("/s/run")


def test_control_socket() -> None:
    """RUNNERD_SOCKET names the socket itself; otherwise it lies in the runtime directory."""
    assert paths.control_socket({"RUNNERD_SOCKET": "/tmp/s"}) == Path("/tmp/s")
    assert paths.control_socket({"RUNTIME_DIRECTORY": "/run/r"}) == Path("/run/r/control.sock")


def test_config_file(tmp_path: Path) -> None:
    """RUNNERD_CONFIG counts even when absent, else the first that exists; none may exist."""
    environ = {"HOME": str(tmp_path)}
    assert paths.config_file({**environ, "RUNNERD_CONFIG": "/absent.toml"}) == Path("/absent.toml")
    assert paths.config_file(environ) in (None, Path("/etc/runnerd/config.toml"))
    own = tmp_path / ".config/runnerd/config.toml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert paths.config_file(environ) == own
    systemd = tmp_path / "etc"
    systemd.mkdir()
    (systemd / "config.toml").touch()
    assert paths.config_file({**environ, "CONFIGURATION_DIRECTORY": str(systemd)}) == systemd / "config.toml"


def test_home() -> None:
    """HOME is believed; without it the account's own folder is used."""
    assert paths.home(HOME) == Path("/home/me")
    assert paths.home({}).is_absolute()
