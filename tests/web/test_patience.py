"""Behaviour of runnerd.web.patience."""

from __future__ import annotations

import pytest

from runnerd.web.patience import Patience


class Clock:
    """Time set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_failures_wear_out_and_are_forgiven_with_time(clock):
    """So many at once, then one for each while; who did nothing for long starts anew, and no better."""
    patience = Patience(clock, burst=3, rate=0.5)
    assert [patience.failed("1.2.3.4") for _ in range(4)] == [True, True, True, False]
    assert patience.worn("1.2.3.4")
    assert patience.wait() == 2
    clock.now += 2
    assert not patience.worn("1.2.3.4")
    assert [patience.failed("1.2.3.4") for _ in range(2)] == [True, False]
    clock.now += 1e6
    assert [patience.failed("1.2.3.4") for _ in range(4)] == [True, True, True, False]


def test_addresses_are_counted_apart_and_networks_of_ipv6_together(clock):
    """One subscriber has a whole /64, and an IPv4 address may be written as IPv6."""
    patience = Patience(clock, burst=1)
    patience.failed("2001:db8::1")
    assert patience.worn("2001:db8::ffff")
    assert patience.worn("2001:db8::2%eth0")
    assert not patience.worn("2001:db8:0:1::1")
    patience.failed("1.2.3.4")
    assert patience.worn("::ffff:1.2.3.4")
    assert not patience.worn("1.2.3.5")
    assert not patience.worn("")


def test_memory_is_bounded(clock):
    """Of more addresses than are remembered the oldest is forgotten."""
    patience = Patience(clock, burst=1, addresses=10)
    for number in range(100):
        patience.failed(f"10.0.0.{number}")
    assert len(patience._left) == 10
    assert patience.worn("10.0.0.99")
    assert not patience.worn("10.0.0.0")
