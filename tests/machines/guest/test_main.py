"""The agent's command line."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import runnerd.machines.guest
from runnerd.machines.guest.__main__ import OPERATIONS

from .conftest import Host

SOURCES = sorted(Path(runnerd.machines.guest.__file__).parent.glob("*.py"))


@pytest.mark.parametrize(
    "arguments",
    [[], ["--fd", "3", "--port", "x"], ["--fd"], ["--what", "3"], ["--init"], ["--fd", "3", "extra"]],
)
def test_wrong_arguments_are_explained(agent_file: Path, arguments: list[str]) -> None:
    """Without exactly one of a port and a descriptor the agent says how it is called and ends with 1."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", agent_file, *arguments], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 1
    assert "--port NAME, --vsock N or --fd N" in done.stderr


def test_it_needs_only_the_standard_library() -> None:
    """Nothing of the daemon's and nothing installed is imported, and nothing in functions of the loop."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                assert all(name.name.split(".")[0] in sys.stdlib_module_names for name in node.names), source
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] in sys.stdlib_module_names, source
            assert not (isinstance(node, ast.ImportFrom) and node.level > 1), source


def test_operations_are_complete(host: Host) -> None:
    """What the host may ask for is this list; anything else is refused."""
    assert sorted(OPERATIONS) == [
        "clock",
        "end",
        "exec",
        "get",
        "lay_out",
        "listen",
        "mount_root",
        "ping",
        "put",
        "quiesce",
        "resize",
        "shell",
        "signal",
        "thaw",
        "unpack",
    ]
    assert "bad request" in host.call("shutdown")["error"]


def test_jobs_get_no_descriptor_of_the_agents(agent_file: Path, tmp_path: Path) -> None:
    """What a process of the job has open is its three streams, also when the agent was handed more."""
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        host = Host(agent_file, tmp_path, secret.fileno())
    host.hello()
    script = "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
    assert host.run(sys.executable, "-c", script)[1] == b"[0, 1, 2]\n"
    assert host.close() == 0


def test_termination_ends_it(host: Host) -> None:
    """SIGTERM ends an agent of a host in order; SIGINT, which reaches a terminal's group, does not."""
    host.process.send_signal(2)
    assert host.call("ping") == {}
    host.process.terminate()
    assert host.process.wait(timeout=10) == 0
