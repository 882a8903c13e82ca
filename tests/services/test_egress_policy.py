"""The network policy: names, addresses in every disguise, and what an operator opens and closes."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.services.egress_policy import (
    Pattern,
    Policy,
    choose,
    judge_address,
    judge_name,
    parse_pattern,
    split_authority,
)

GUARDED = Policy()


def judged(text: str, policy: Policy = GUARDED, *, own: str = "") -> str:
    """What is said against an address; empty when it is allowed."""
    return judge_address(policy, ip_address(text), lambda each: str(each) == own).rule


def opened(*blocks: str, closed: tuple[str, ...] = ()) -> Policy:
    """A guarded policy with ranges of an operator's."""
    return Policy(
        opened=tuple(ip_network(block) for block in blocks),
        closed=tuple(ip_network(block) for block in closed),
    )


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "carrier"),
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("169.254.1.1", "link-local"),
        ("169.254.169.254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("100.100.100.200", "metadata"),
        ("192.0.0.192", "metadata"),
        ("192.0.2.1", "reserved"),
        ("198.18.0.1", "reserved"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("2600::1%eth0", "link-local"),
        ("fd00::1", "private"),
        ("fd00:ec2::254", "metadata"),
        ("fec0::1", "private"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "reserved"),
        ("2001::1", "reserved"),
        ("100::1", "no public"),
        ("64:ff9b:1::a00:1", "no public"),
        ("::10.0.0.1", "no public"),
        ("::ffff:10.0.0.1", "private"),
        ("::ffff:169.254.169.254", "metadata"),
        ("::ffff:127.0.0.1", "loopback"),
        ("64:ff9b::10.0.0.1", "private"),
        ("2002:a00:1::", "private"),
        ("2002:7f00:1::1", "loopback"),
    ],
)
def test_inner_addresses_are_refused(address: str, what: str) -> None:
    """No private, reserved or metadata address is reached, however it is wrapped; the rule names it."""
    assert what in judged(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2600::1", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"]
)
def test_public_addresses_are_reached(address: str) -> None:
    """What is public is allowed, wrapped or not."""
    assert judged(address) == ""


@given(st.ip_addresses(v=4))
def test_a_wrapped_address_is_judged_as_what_it_wraps(address) -> None:
    """For every IPv4 address: mapped, translated and 6to4 forms are allowed exactly when it is itself."""
    allowed = judged(str(address)) == ""
    number = int(address)
    assert (judged(f"::ffff:{address}") == "") == allowed
    assert (judged(f"64:ff9b::{address}") == "") == allowed
    assert (judged(f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1") == "") == allowed


@given(st.ip_addresses())
def test_nothing_that_python_knows_as_inner_is_allowed(address) -> None:
    """The table is at least as strict as the standard library's own, for every address."""
    if judge_address(GUARDED, address, lambda _: False).allowed:
        mapped = getattr(address, "ipv4_mapped", None) or address
        wrapped = address.version == 6 and int(address) >> 32 == int(ip_address("64:ff9b::")) >> 32
        assert wrapped or not (mapped.is_private or mapped.is_multicast or mapped.is_reserved)


def test_the_host_itself_is_refused() -> None:
    """A public address of this host is no way to its services, wrapped neither."""
    assert "host itself" in judged("1.2.3.4", own="1.2.3.4")
    assert "host itself" in judged("64:ff9b::1.2.3.4", own="1.2.3.4")
    assert judged("1.2.3.5", own="1.2.3.4") == ""


def test_a_range_opens_private_addresses_alone() -> None:
    """An operator's range opens what is private in it, not the host, its loopback or a metadata service."""
    assert judged("10.1.2.3", opened("10.1.0.0/16")) == ""
    assert "private" in judged("10.2.0.1", opened("10.1.0.0/16"))
    assert "host itself" in judged("10.1.0.9", opened("10.1.0.0/16"), own="10.1.0.9")
    everything = opened("0.0.0.0/0", "::/0")
    for address in ("127.0.0.1", "169.254.169.254", "169.254.9.9", "224.0.0.1", "::1", "fe80::1"):
        assert judged(address, everything) != ""
    assert "metadata" in judged("100.100.100.200", opened("100.64.0.0/10"))


def test_a_single_address_opens_whatever_it_is() -> None:
    """What an operator names exactly is reached, the host's own registry too."""
    assert judged("127.0.0.1", opened("127.0.0.1/32")) == ""
    assert judged("10.1.0.9", opened("10.1.0.9/32"), own="10.1.0.9") == ""
    assert judged("127.0.0.2", opened("127.0.0.1/32")) != ""


def test_closed_comes_first() -> None:
    """A closed range is closed, though it is public or opened."""
    assert "closed" in judged("1.2.3.4", opened(closed=("1.2.3.0/24",)))
    assert "closed" in judged("10.0.0.1", opened("10.0.0.1/32", closed=("10.0.0.0/8",)))
    assert "closed" in judged("::ffff:1.2.3.4", opened(closed=("1.2.3.0/24",)))


def test_only_what_may_be_reached_is_chosen() -> None:
    """Of a name's addresses the inner ones are left out; when none is left the verdict says why."""
    public, inner = ip_address("1.1.1.1"), ip_address("10.0.0.1")
    chosen, verdict = choose(GUARDED, [inner, public], lambda _: False)
    assert (chosen, verdict.allowed) == ([public], True)
    chosen, verdict = choose(GUARDED, [inner], lambda _: False)
    assert (chosen, verdict.rule) == ([], "10.0.0.1 is a private address")
    assert not choose(GUARDED, [], lambda _: False)[1].allowed


def test_names_are_judged_before_they_are_looked_up() -> None:
    """No network, a closed port and a host that is not on the list are known from the name alone."""
    listed = Policy(kind="allowlist", allow=(Pattern("a.example"), Pattern("b.example", True, 443)))
    assert judge_name(Policy(kind="none", reason="forks have none"), "a", 80).rule == "forks have none"
    assert "mail" in judge_name(GUARDED, "a.example", 25).rule
    assert judge_name(Policy(ports=(25,)), "a.example", 25).allowed
    assert "port 80" in judge_name(Policy(ports=(443,)), "a.example", 80).rule
    assert judge_name(listed, "a.example", 22).allowed
    assert judge_name(listed, "x.b.example", 443).allowed
    for host, port in (("b.example", 443), ("x.b.example", 80), ("xa.example", 22), ("x.a.example", 22)):
        assert "allowlist" in judge_name(listed, host, port).rule


def test_patterns_are_read_as_they_are_written() -> None:
    """A host, all below one, a port; anything else is an error."""
    assert parse_pattern("A.example.") == Pattern("a.example")
    assert parse_pattern("*.a.example:8443") == Pattern("a.example", True, 8443)
    assert parse_pattern("[::1]:80") == Pattern("::1", False, 80)
    for wrong in ("[fe80::1%a b]:80", "*", "*.", "a b", "a:0", "a:99999", "*.10.0.0.1", "a.*.b", ""):
        with pytest.raises(ValueError, match=r"not|wildcard"):
            parse_pattern(wrong)


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9.:\[\]%_-]{1,40}", fullmatch=True))
def test_an_authority_is_safe_to_log(text: str) -> None:
    """What is accepted as host and port has no space, control character or markup, and a port in range."""
    try:
        host, port = split_authority(text, None)
    except ValueError:
        return
    assert set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789.:_-")
    assert port is None or 0 < port < 65536
