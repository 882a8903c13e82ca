"""Which policy a job has, and what becomes of a machine that none can be held on."""

from __future__ import annotations

from pathlib import Path

import pytest

from runnerd.config import load
from runnerd.daemon.network import JobNetwork, policy_for
from runnerd.jobs.ports import PolicyUnheld
from runnerd.machines.driver import Capabilities
from runnerd.model import Actor, Event, Repository, RunRecord
from runnerd.services import egress
from runnerd.services.egress_policy import Pattern

CONFIG = """
[network]
allow = ["a.example"]
open = ["10.1.0.0/16", "fd00::1"]
closed = ["1.2.3.4"]
[repositories."Owner/Strict"]
network = "allowlist"
network_allow = ["*.b.example:443"]
"""


def config(tmp_path: Path, text: str = CONFIG):
    (tmp_path / "config.toml").write_text(text)
    return load(tmp_path / "config.toml", environ={"HOME": str(tmp_path)})


def run_of(repository: str, *, fork: bool = False) -> RunRecord:
    event = Event(
        name="push",
        delivery="d",
        repository=Repository(id=1, full_name=repository),
        sender=Actor(id=1, login="someone"),
        fork=fork,
    )
    return RunRecord(
        id=1,
        delivery="d",
        repository=repository,
        workflow_path="w.yml",
        workflow_name="w",
        title="",
        source="",
        event=event,
        number=1,
    )


class Machine:
    """Takes what it is given."""

    id = "m"

    def __init__(self, **capabilities) -> None:
        self.capabilities = Capabilities(**capabilities)
        self.files: dict[str, tuple[bytes, int, int]] = {}
        self.ports: list[int] = []

    async def listen(self, port, handler) -> None:
        self.ports.append(port)

    async def put(self, path, data, *, mode, user) -> None:
        if "apt" in path:
            raise OSError("no such folder")
        self.files[path] = (data, mode, user)


def test_trusted_events_are_guarded_and_forks_have_nothing(tmp_path: Path) -> None:
    """The defaults, with the operator's ranges, whatever the repository's own settings allow a fork."""
    policy = policy_for(config(tmp_path), run_of("o/n"))
    assert (policy.kind, len(policy.opened), len(policy.closed)) == ("guarded", 2, 1)
    fork = policy_for(config(tmp_path), run_of("owner/strict", fork=True))
    assert (fork.kind, fork.allow) == ("none", (Pattern("a.example"),))
    assert "forks" in fork.reason


def test_a_repository_has_a_policy_of_its_own(tmp_path: Path) -> None:
    """Its name is compared as forges do; its hosts come on top of everybody's."""
    policy = policy_for(config(tmp_path), run_of("owner/strict"))
    assert policy.kind == "allowlist"
    assert policy.allow == (Pattern("a.example"), Pattern("b.example", True, 443))


async def test_a_machine_gets_port_files_and_variables(tmp_path: Path) -> None:
    """The proxy's port, root's files (an image that takes one not does without), variables for steps."""
    machine, lines = Machine(isolated=True, egress=True), []
    async with JobNetwork(config(tmp_path)).open(machine, run_of("o/n"), _into(lines)) as variables:
        assert variables == egress.variables()
    assert machine.ports == [egress.PORT]
    assert machine.files["/etc/sudoers.d/runnerd-proxy"][1:] == (0o440, 0)
    assert lines == ["Network: through a proxy, to public addresses"]


async def test_a_process_of_the_host_has_its_network(tmp_path: Path) -> None:
    """The log says so, and nothing is set."""
    machine, lines = Machine(isolated=False), []
    async with JobNetwork(config(tmp_path)).open(machine, run_of("o/n"), _into(lines)) as variables:
        assert variables == {}
    assert "that of the host" in lines[0]
    assert machine.ports == []


async def test_a_strict_policy_that_cannot_be_held_stops_the_job(tmp_path: Path) -> None:
    """On a machine with a network of its own `guarded` is said not to hold, and `none` refuses to run."""
    network, machine, lines = JobNetwork(config(tmp_path)), Machine(isolated=True), []
    async with network.open(machine, run_of("o/n"), _into(lines)):
        assert "no policy of ours holds" in lines[0]
    with pytest.raises(PolicyUnheld, match="'none' cannot be held"):
        async with network.open(machine, run_of("o/n", fork=True), _into(lines)):
            pass


def _into(lines: list[str]):
    async def say(line: str) -> None:
        lines.append(line)

    return say
