"""How many requests without a proof one address may send before it is only told to go away."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

BURST = 60
"""Failures one address may make at once."""
RATE = 1.0
"""Failures a second that are forgiven."""
ADDRESSES = 4096
"""Addresses remembered; of more the one that failed longest ago is forgotten."""


class Patience:
    """A bucket of forgiven failures for each address; who proves itself takes nothing out.

    Behind a proxy all senders have one address. That is why only failures count, and why who is `worn`
    out may still be heard where it brings a signature: a stranger cannot shut the forge out.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        burst: int = BURST,
        rate: float = RATE,
        addresses: int = ADDRESSES,
    ) -> None:
        self._clock = clock
        self._burst = burst
        self._rate = rate
        self._addresses = addresses
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By address: what was left, and when that was."""

    def worn(self, peer: str) -> bool:
        """Whether this address has failed too often lately."""
        return self._now(_place(peer)) < 1.0

    def failed(self, peer: str) -> bool:
        """Count a failure; whether it is still forgiven, and worth a line in the log."""
        place = _place(peer)
        left = self._now(place)
        self._left[place] = (max(0.0, left - 1.0), self._clock())
        self._left.move_to_end(place)
        while len(self._left) > self._addresses:
            self._left.popitem(last=False)
        return left >= 1.0

    def wait(self) -> int:
        """Seconds after which a worn address is forgiven one failure."""
        return max(1, round(1.0 / self._rate))

    def _now(self, place: str) -> float:
        left, then = self._left.get(place, (float(self._burst), 0.0))
        return min(float(self._burst), left + (self._clock() - then) * self._rate)


def _place(peer: str) -> str:
    """The address, or the network that one subscriber has of IPv6."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer[:100]
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
