"""What a job may reach: the configured policy, held by a proxy where the machine has no other way out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_network

from runnerd import log
from runnerd.config import Config
from runnerd.jobs.ports import PolicyUnheld, Write
from runnerd.machines.driver import Machine
from runnerd.model import RunRecord
from runnerd.services import egress
from runnerd.services.egress import Egress, Limits
from runnerd.services.egress_policy import Policy, parse_pattern

_log = log.get(__name__)


class JobNetwork:
    """Implements `jobs.ports.Network`; one proxy host for all jobs."""

    def __init__(self, config: Config, host: Egress | None = None) -> None:
        network = config.network
        self._config = config
        self._host = host or Egress(
            Limits(
                connections=network.connections,
                connect_seconds=network.connect_timeout,
                idle_seconds=network.idle_timeout,
            )
        )

    @asynccontextmanager
    async def open(self, machine: Machine, run: RunRecord, say: Write) -> AsyncIterator[Mapping[str, str]]:
        """Offer the proxy to the machine; see `jobs.ports.Network.open`."""
        policy = policy_for(self._config, run)
        if not machine.capabilities.egress:
            await say(unheld(machine, policy))
            yield {}
            return
        async with self._host.open(policy, say) as proxy:
            await say(f"Network: {described(policy)}")
            await machine.listen(egress.PORT, proxy.serve)
            for path, data in egress.files().items():
                try:
                    await machine.put(path, data, mode=0o440 if "sudoers" in path else 0o644, user=0)
                except OSError as error:
                    _log.warning("a machine does not take a file", path=path, problem=str(error))
            yield egress.variables()


def policy_for(config: Config, run: RunRecord) -> Policy:
    """The policy of one run: a repository's own narrows or widens the general one, a fork's is its own."""
    network = config.network
    name = run.repository.casefold()
    own = next((each for key, each in config.repositories.items() if key.casefold() == name), None)
    kind = network.forks if run.event.fork else (own.network if own and own.network else network.policy)
    hosts = (*network.allow, *(own.network_allow if own and not run.event.fork else ()))
    return Policy(
        kind=kind,
        reason="pull requests from forks have no network here" if run.event.fork else "",
        allow=tuple(parse_pattern(host) for host in hosts),
        ports=network.ports,
        opened=tuple(ip_network(block, strict=False) for block in network.open),
        closed=tuple(ip_network(block, strict=False) for block in network.closed),
    )


def described(policy: Policy) -> str:
    """A policy in words, for the head of a log."""
    if policy.kind == "none":
        return f"none, {policy.reason or 'as the operator configured it'}"
    if policy.kind == "allowlist":
        return f"through a proxy, to {len(policy.allow)} allowed hosts"
    return "through a proxy, to public addresses"


def unheld(machine: Machine, policy: Policy) -> str:
    """Say what a machine has that no policy reaches. Raises `PolicyUnheld` where that is not enough."""
    if not machine.capabilities.isolated:
        return "Network: that of the host, for the job runs as a process of it; no policy holds here"
    if policy.kind != "guarded":
        raise PolicyUnheld(
            f"the network policy {policy.kind!r} cannot be held on this machine: its network card is that of "
            "the service that made it, and no proxy of ours is on that way. Use another [machines] "
            "driver, or set policy or forks under [network] to guarded, which is then left to that service"
        )
    return "##[warning]Network: as the service that made the machine gives it; no policy of ours holds here"
