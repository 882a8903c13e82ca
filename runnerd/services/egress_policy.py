"""Which addresses a job may reach: pure; decided by name before a look-up, by address before a connect.

The ranges are those of IANA's special-purpose registries (RFC 6890 and its successors), with the metadata
services of the large clouds, some of which have public addresses. A name is never trusted: whatever it
resolves to is judged, and the connection goes to the very address that was judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

import msgspec

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Kind = Literal["none", "guarded", "allowlist"]

MAIL = 25
"""The port that is closed where no ports are configured: a job has no business delivering mail."""

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")

_METADATA = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # most clouds
            "169.254.170.2",  # containers at Amazon
            "169.254.170.23",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",  # Google
            "100.100.100.200",  # Alibaba
            "168.63.129.16",  # Azure, a public address
            "192.0.0.192",  # Oracle
        ),
    )
)

_RANGES: tuple[tuple[Network, str, bool], ...] = tuple(
    (ip_network(block), name, openable)
    for block, name, openable in (
        ("0.0.0.0/8", "an unspecified address", False),
        ("127.0.0.0/8", "a loopback address", False),
        ("169.254.0.0/16", "a link-local address", False),
        ("10.0.0.0/8", "a private address", True),
        ("172.16.0.0/12", "a private address", True),
        ("192.168.0.0/16", "a private address", True),
        ("100.64.0.0/10", "a carrier's private address", True),
        ("192.0.0.0/24", "a reserved address", False),
        ("192.0.2.0/24", "a reserved address", True),
        ("192.31.196.0/24", "a reserved address", False),
        ("192.52.193.0/24", "a reserved address", False),
        ("192.88.99.0/24", "a reserved address", False),
        ("192.175.48.0/24", "a reserved address", False),
        ("198.18.0.0/15", "a reserved address", True),
        ("198.51.100.0/24", "a reserved address", True),
        ("203.0.113.0/24", "a reserved address", True),
        ("224.0.0.0/4", "a multicast address", False),
        ("240.0.0.0/4", "a reserved address", False),
        ("::/128", "an unspecified address", False),
        ("::1/128", "a loopback address", False),
        ("fe80::/10", "a link-local address", False),
        ("fec0::/10", "a private address", True),
        ("fc00::/7", "a private address", True),
        ("ff00::/8", "a multicast address", False),
        ("2001::/23", "a reserved address", False),
        ("2001:db8::/32", "a reserved address", True),
        ("3fff::/20", "a reserved address", True),
    )
)
"""Range, what it is, and whether an operator's range opens it; only a single address opens the others."""

_GLOBAL = IPv6Network("2000::/3")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_NAT64 = IPv6Network("64:ff9b::/96")


class Verdict(msgspec.Struct, frozen=True):
    """Whether a connection may be made; where it may not, `rule` is the rest of a sentence that says why."""

    allowed: bool
    rule: str = ""


ALLOWED = Verdict(True)


class Pattern(msgspec.Struct, frozen=True):
    """One entry of an allowlist: a host, or every host below one, on one port or on every port."""

    host: str
    below: bool = False
    port: int | None = None

    def covers(self, host: str, port: int) -> bool:
        """Whether the entry names this host and port; `*.a.b` covers what is below `a.b`, not `a.b`."""
        if self.port is not None and self.port != port:
            return False
        return host.endswith(f".{self.host}") if self.below else host == self.host


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What one job may reach."""

    kind: Kind = "guarded"
    reason: str = ""
    """Why it is `none`, as the rest of a sentence."""
    allow: tuple[Pattern, ...] = ()
    """The hosts of an allowlist."""
    ports: tuple[int, ...] = ()
    """The only ports, where there are any."""
    opened: tuple[Network, ...] = ()
    """Ranges that are reached though they are private, and single addresses whatever they are."""
    closed: tuple[Network, ...] = ()
    """Ranges that are never reached."""


def parse_pattern(text: str) -> Pattern:
    """Read `host`, `*.host`, `host:port`, `[address]:port`. Raises ValueError."""
    host, port = split_authority(text.removeprefix("*."), None)
    below = text.startswith("*.")
    if below and _literal(host) is not None:
        raise ValueError(f"{text!r} puts a wildcard before an address")
    return Pattern(host, below, port)


def split_authority(text: str, default: int | None) -> tuple[str, int | None]:
    """Split `host:port` to a host in its plain form (lower case, no brackets, no final dot) and a port.

    Raises ValueError for what is neither a host name nor an address: what it returns may stand in a log.
    """
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        literal = _literal(host)
        if not closed or not isinstance(literal, IPv6Address) or "%" in host or rest[:1] not in ("", ":"):
            raise ValueError("not an IPv6 address in brackets")
        host, port = str(literal), rest[1:]
    else:
        host, _, port = text.partition(":")
        host = host.lower().removesuffix(".")
        if not _HOST.fullmatch(host):
            raise ValueError("not a host name")
    if not port:
        return host, default
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError("not a port from 1 to 65535")
    return host, int(port)


def judge_name(policy: Policy, host: str, port: int) -> Verdict:
    """Judge a host and port as `split_authority` gives them, before anything is looked up."""
    if policy.kind == "none":
        return Verdict(False, policy.reason or "this job has no network")
    if policy.ports and port not in policy.ports:
        return Verdict(False, f"port {port} is not among the allowed ports")
    if not policy.ports and port == MAIL:
        return Verdict(False, "port 25 is closed, so that no job sends mail")
    if policy.kind == "allowlist" and not any(entry.covers(host, port) for entry in policy.allow):
        return Verdict(False, "it is not on the allowlist")
    return ALLOWED


def judge_address(policy: Policy, address: Address, own: Callable[[Address], bool]) -> Verdict:
    """Judge an address that a name resolved to. `own` knows the addresses of this host.

    Wrapped IPv4 addresses are judged as what they wrap, too.
    """
    judged = [address]
    if isinstance(address, IPv6Address):
        inner, refused = _unwrapped(address)
        if refused:
            return Verdict(False, f"{address} is {refused}")
        judged = [address, inner] if inner is not None else [address]
    for each in judged:
        verdict = _judge(policy, each, own(each), wrapped=each is not judged[-1])
        if not verdict.allowed:
            said = verdict.rule if each == address else f"{verdict.rule}, wrapped in {address}"
            return Verdict(False, said)
    return ALLOWED


def choose(
    policy: Policy, addresses: Sequence[Address], own: Callable[[Address], bool]
) -> tuple[list[Address], Verdict]:
    """Return the addresses that may be connected to, and the verdict on them all."""
    allowed: list[Address] = []
    refused = Verdict(False, "its name has no address")
    for address in addresses:
        verdict = judge_address(policy, address, own)
        if verdict.allowed:
            allowed.append(address)
        else:
            refused = verdict
    return allowed, ALLOWED if allowed else refused


def _judge(policy: Policy, address: Address, own: bool, *, wrapped: bool) -> Verdict:
    if any(_in(address, block) for block in policy.closed):
        return Verdict(False, f"{address} is in a range that the operator closed")
    openers = [block for block in policy.opened if _in(address, block)]
    if any(block.num_addresses == 1 for block in openers):
        return ALLOWED
    if address in _METADATA:
        return Verdict(False, f"{address} is a metadata service")
    if own:
        return Verdict(False, f"{address} is an address of the host itself")
    for block, name, openable in _RANGES:
        if _in(address, block):
            return ALLOWED if openable and openers else Verdict(False, f"{address} is {name}")
    if isinstance(address, IPv6Address) and not wrapped and address not in _GLOBAL:
        return Verdict(False, f"{address} is no public address")
    return ALLOWED


def _unwrapped(address: IPv6Address) -> tuple[IPv4Address | None, str]:
    """The IPv4 address an IPv6 one stands for; or why it is refused whatever it stands for."""
    if address.scope_id is not None:
        return None, "a link-local address"
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped, ""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF), ""
    if address in _SIX_TO_FOUR:
        return IPv4Address(int(address) >> 80 & 0xFFFFFFFF), ""
    return None, ""


def _in(address: Address, block: Network) -> bool:
    return address.version == block.version and address in block


def _literal(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
