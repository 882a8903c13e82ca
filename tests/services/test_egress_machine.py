"""The whole way out of a real microVM: its tools reach the tests' servers, and nothing of the host's."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio

from runnerd.config import load
from runnerd.daemon.network import JobNetwork
from runnerd.machines.driver import Command
from runnerd.model import Actor, Event, Repository, RunRecord
from runnerd.services import egress
from runnerd.services.egress import Egress
from tests.services import origin

pytestmark = pytest.mark.vm

RUN = RunRecord(
    id=1,
    delivery="d",
    repository="o/n",
    workflow_path="w.yml",
    workflow_name="w",
    title="",
    source="",
    event=Event(
        name="push", delivery="d", repository=Repository(id=1, full_name="o/n"), sender=Actor(id=1, login="a")
    ),
    number=1,
)

SCRIPT = """
set -e
curl -sS http://here.example:PORT/hello.txt
curl -sS --cacert cert.pem https://here.example:TLS/hello.txt
curl -sS -o - http://169.254.169.254/latest/meta-data || true
curl -sS https://10.0.0.1/ 2>&1 || true
curl -sS http://host.example:PORT/hello.txt || true
sudo curl -sS http://here.example:PORT/hello.txt
git clone -q http://here.example:PORT/repo.git plain && cat plain/file
GIT_SSL_CAINFO=$PWD/cert.pem git clone -q https://here.example:TLS/repo.git secure && cat secure/file
sudo apt-config dump Acquire::http::Proxy
"""
PIP = """
export PIP_INDEX_URL=http://here.example:PORT/simple/ PIP_TRUSTED_HOST=here.example
python3 -m pip download -q --no-deps --disable-pip-version-check demo && ls *.whl
"""


def start(*argv: object) -> subprocess.Popen[str]:
    """A process that ends with its standard input."""
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def test_a_guarded_machine(vm_driver, vm_template, tmp_path: Path) -> None:
    """curl, git, pip and sudo reach a site; metadata, private and host addresses are refused and named."""
    origin.furnish(tmp_path / "origin")
    config_file = tmp_path / "config.toml"
    config_file.write_text('[network]\nopen = ["127.0.0.1"]\n')
    config = load(config_file, environ={"HOME": str(tmp_path)})
    names = {"here.example": "127.0.0.1", "host.example": "127.0.0.2"}

    async def resolve(host: str):
        return [ip_address(names[host])]

    said, lines = bytearray(), []

    async def keep(stream: str, data: bytes) -> None:
        said.extend(data)

    async def say(line: str) -> None:
        lines.append(line)

    serve = [sys.executable, origin.__file__, tmp_path / "origin", "127.0.0.1", "0", "0"]
    with start(*serve) as site:
        port, tls = site.stdout.readline().split()
        machine = await vm_driver.clone(vm_template)
        await machine.thaw()
        await machine.lease()
        network = JobNetwork(config, Egress(resolve=resolve))
        async with network.open(machine, RUN, say) as variables:
            await machine.put("/home/runner/cert.pem", (tmp_path / "origin/cert.pem").read_bytes())
            env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/runner", **variables}
            for script in (SCRIPT, PIP):
                text = script.replace("PORT", port).replace("TLS", tls)
                command = Command(argv=("/bin/bash", "-c", text), env=env, cwd="/home/runner")
                with trio.fail_after(300):
                    done = await machine.exec(command, keep)
                assert done.code == 0, said.decode()
        await machine.destroy()
        site.stdin.close()
    text = said.decode()
    assert text.count("hello from the tests") == 3, text
    assert text.count("from git") == 2
    assert "demo-1.0-py3-none-any.whl" in text
    assert f'Acquire::http::Proxy "http://127.0.0.1:{egress.PORT}"' in text
    assert "403" in text
    for place, rule in (
        ("169.254.169.254:80", "169.254.169.254 is a metadata service"),
        ("10.0.0.1:443", "10.0.0.1 is a private address"),
        (f"host.example:{port}", "127.0.0.2 is a loopback address"),
    ):
        assert f"##[warning]The network policy refused a connection to {place}: {rule}." in lines
    assert any(line.startswith(f"here.example:{port}: ") for line in lines)
