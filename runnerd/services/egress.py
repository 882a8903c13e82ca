"""The way out of a machine: a proxy on the host that one machine reaches by a port on its own loopback.

A machine has no network card, so what the proxy refuses is not reached. Nothing that a client or a server
sends ends more than its own connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import h11
import msgspec
import trio

from runnerd import log, metrics
from runnerd.services import egress_names
from runnerd.services.egress_account import Account, Say, Traffic
from runnerd.services.egress_http import Refused, Side, answer, converse
from runnerd.services.egress_names import NoAddress
from runnerd.services.egress_policy import Address, Policy, Verdict, choose, judge_name

PORT = 31280
"""On the machine's loopback; below the ports that the kernel gives to clients."""

TRIED = 4
"""Addresses of one name that are tried, at most."""
LOOK_UPS = 8
"""Names that one machine may look up at once."""
CLOSING = 3.0
"""Seconds in which a job's connections must have ended, and its summary be written."""

_log = log.get(__name__)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the proxy; times in seconds."""

    connections: int = 48
    """Of one machine. The agent carries 64 in all, so other services keep a few."""
    everywhere: int = 512
    """Of all machines together: each costs the daemon a descriptor."""
    head_seconds: float = 60.0
    resolve_seconds: float = 10.0
    connect_seconds: float = 10.0
    idle_seconds: float = 900.0


class Egress:
    """The proxy of a host. `resolve`, `dial` and `is_own` are parameters for those who test."""

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008
        *,
        resolve: Callable[[str], Awaitable[Sequence[Address]]] | None = None,
        is_own: Callable[[Address], bool] = egress_names.is_own,
    ) -> None:
        self.limits = limits
        self.resolve = resolve or egress_names.Names().resolve
        self.is_own = is_own
        self.connections = 0
        """Open now, of all machines."""

    @asynccontextmanager
    async def open(self, policy: Policy, say: Say) -> AsyncIterator[Proxy]:
        """A proxy for one job; leaving ends its connections and writes what they were to the log, bounded."""
        account = Account(say)
        proxy = Proxy(self, policy, account)
        try:
            yield proxy
        finally:
            with trio.move_on_after(CLOSING, shield=True):
                await proxy.close()
                await account.close()


class Proxy:
    """The proxy of one job: `serve` is what a machine's port leads to."""

    def __init__(self, host: Egress, policy: Policy, account: Account) -> None:
        self._host = host
        self._policy = policy
        self._account = account
        self._look_ups = trio.CapacityLimiter(LOOK_UPS)
        self._open: set[trio.CancelScope] = set()
        self._closed = False
        self._empty = trio.Event()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection; raises nothing but `Cancelled`, whatever the client and its servers do."""
        assert isinstance(stream, trio.abc.HalfCloseableStream)
        scope = trio.CancelScope()
        self._open.add(scope)
        self._host.connections += 1
        try:
            async with stream:
                with scope:
                    await self._serve(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
            pass  # it went away, or it speaks something else
        except* Exception:
            _log.error("a connection of the egress proxy failed", exc_info=True)
        finally:
            self._host.connections -= 1
            self._open.discard(scope)
            if not self._open:
                self._empty.set()

    async def close(self) -> None:
        """End every connection, and take no more. Safe twice."""
        self._closed = True
        for scope in self._open:
            scope.cancel()
        if self._open:
            self._empty = trio.Event()
            await self._empty.wait()

    async def reach(self, host: str, port: int) -> tuple[trio.SocketStream, Traffic]:
        """Connect to what the policy allows. Raises `Refused`."""
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        await self._demand(judge_name(self._policy, host, port), place)
        addresses, verdict = choose(self._policy, await self._addresses(host, place), self._host.is_own)
        await self._demand(verdict, place)
        try:
            stream = await egress_names.dial(addresses[:TRIED], port, each=self._host.limits.connect_seconds)
        except OSError as error:
            metrics.egress.labels(result="failed").inc()
            status = 504 if isinstance(error, TimeoutError) else 502
            raise Refused(status, f"no connection to {place}: {error.strerror or error}") from error
        metrics.egress.labels(result="connected").inc()
        return stream, self._account.reached(place)

    async def _serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        limits = self._host.limits
        if self._closed:
            return
        if len(self._open) > limits.connections or self._host.connections > limits.everywhere:
            mine = len(self._open) > limits.connections
            whose = f"this job has {limits.connections}" if mine else f"this host has {limits.everywhere}"
            await answer(Side(stream, h11.SERVER), Refused(503, f"{whose} connections open already"))
            return
        await converse(stream, self, head_seconds=limits.head_seconds, idle_seconds=limits.idle_seconds)

    async def _addresses(self, host: str, place: str) -> Sequence[Address]:
        try:
            return [ip_address(host)]
        except ValueError:
            pass
        seconds = self._host.limits.resolve_seconds
        try:
            with trio.fail_after(seconds):
                async with self._look_ups:
                    return await self._host.resolve(host)
        except trio.TooSlowError:
            problem = Refused(
                504, f"no connection to {place}: its name was not resolved within {seconds:g} s"
            )
        except NoAddress as error:
            problem = Refused(502, f"no connection to {place}: {error}")
        metrics.egress.labels(result="failed").inc()
        raise problem

    async def _demand(self, verdict: Verdict, place: str) -> None:
        if not verdict.allowed:
            metrics.egress.labels(result="refused").inc()
            await self._account.refused(place, verdict.rule)
            raise Refused(403, f"the network policy refuses {place}: {verdict.rule}")


def variables(port: int = PORT) -> dict[str, str]:
    """What every process in the machine is told of the proxy, in the spellings that are in use."""
    proxy = f"http://127.0.0.1:{port}"
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    direct = dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1,::1")
    return dict.fromkeys(names, proxy) | direct | {"NODE_USE_ENV_PROXY": "1"}


def files(port: int = PORT) -> dict[str, bytes]:
    """Files of root's in the machine that tell of the proxy where variables do not reach: by path.

    sudo drops what it is not told to keep, and apt is also started without any variables.
    """
    proxy = f"http://127.0.0.1:{port}"
    return {
        "/etc/sudoers.d/runnerd-proxy": f'Defaults env_keep += "{" ".join(variables(port))}"\n'.encode(),
        "/etc/apt/apt.conf.d/90runnerd-proxy": (
            f'Acquire::http::Proxy "{proxy}";\nAcquire::https::Proxy "{proxy}";\n'.encode()
        ),
    }
