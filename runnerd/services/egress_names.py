"""Names to addresses, and addresses to connections, for the egress proxy; bounded in time and in number."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import ip_address

import trio

from runnerd.services.egress_policy import Address

THREADS = 16
"""Look-ups at once on this host; one that a dead name server holds up keeps its thread until it gives up."""


class NoAddress(Exception):
    """A name could not be resolved; says why."""


class Names:
    """This host's own resolver, in threads of its own."""

    def __init__(self, threads: int = THREADS) -> None:
        self._threads = trio.CapacityLimiter(threads)

    async def resolve(self, host: str) -> list[Address]:
        """Every address of a name, the preferred first. Raises `NoAddress`; cancelling does not wait."""
        try:
            found = await trio.to_thread.run_sync(
                _look_up, host, limiter=self._threads, abandon_on_cancel=True
            )
        except (OSError, UnicodeError) as error:
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise NoAddress(said) from error
        return found


async def dial(addresses: Sequence[Address], port: int, *, each: float) -> trio.SocketStream:
    """Connect to the first of these addresses that answers within `each` seconds.

    Raises TimeoutError or OSError of the last one.
    """
    problem: OSError = OSError("there is no address")
    for address in addresses:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            link = trio.socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            problem = error
            continue
        try:
            with trio.fail_after(each):
                await link.connect((str(address), port))
            return trio.SocketStream(link)
        except trio.TooSlowError:
            problem = TimeoutError(f"no answer within {each:g} s")
        except OSError as error:
            problem = error
        except BaseException:
            link.close()
            raise
        link.close()
    raise problem


def is_own(address: Address) -> bool:
    """Whether an address is one of this host's: then the kernel would send from it. Sends nothing."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            source = ip_address(probe.getsockname()[0])
    except OSError:  # no way there: a connection fails as well
        return False
    return source == address


def _look_up(host: str) -> list[Address]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))
