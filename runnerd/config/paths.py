"""Where the daemon keeps its state and its sockets, from the environment alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def state_directory(environ: Mapping[str, str]) -> Path:
    """Return `$STATE_DIRECTORY` (the first, where systemd names several), else one below the home."""
    if given := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(given).absolute()
    base = environ.get("XDG_STATE_HOME") or home(environ) / ".local/state"
    return Path(base) / "runnerd"


def runtime_directory(environ: Mapping[str, str]) -> Path:
    """Return `$RUNTIME_DIRECTORY`; without systemd, a folder of the session or of the state."""
    if given := environ.get("RUNTIME_DIRECTORY", "").split(":")[0]:
        return Path(given).absolute()
    if session := environ.get("XDG_RUNTIME_DIR"):
        return Path(session) / "runnerd"
    return state_directory(environ) / "run"


def control_socket(environ: Mapping[str, str]) -> Path:
    """Return `$RUNNERD_SOCKET`, else `control.sock` in the runtime directory."""
    if given := environ.get("RUNNERD_SOCKET"):
        return Path(given).absolute()
    return runtime_directory(environ) / "control.sock"


def config_file(environ: Mapping[str, str]) -> Path | None:
    """Return the first config.toml there is: `$RUNNERD_CONFIG` (existing or not), systemd's, user's, host's.

    Never one in the current folder: that may be a stranger's checkout.
    """
    if given := environ.get("RUNNERD_CONFIG"):
        return Path(given).absolute()
    folders = [environ.get("CONFIGURATION_DIRECTORY", "").split(":")[0]]
    folders.append(str(Path(environ.get("XDG_CONFIG_HOME") or home(environ) / ".config") / "runnerd"))
    folders.append("/etc/runnerd")
    for folder in filter(None, folders):
        if (path := Path(folder) / "config.toml").exists():
            return path
    return None


def home(environ: Mapping[str, str]) -> Path:
    """Return the user's home folder."""
    given = environ.get("HOME")
    return Path(given) if given else Path.home()
