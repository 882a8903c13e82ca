"""The rate of the host's time-stamp counter."""

import time

import pytest

from runnerd.machines import tsc


def test_the_measured_rate_is_steady():
    """Two measurements of one host agree to a part in a thousand, and are a processor's."""
    first, second = (tsc.measure(span=0.01, samples=5) for _ in range(2))
    assert first == pytest.approx(second, rel=1e-3)
    assert 100_000 < first < 10_000_000


def test_the_rate_follows_the_clock():
    """Against a clock of double speed the counter seems to run at half: nothing is taken from elsewhere."""
    honest = tsc.measure(span=0.01, samples=3)
    doubled = tsc.measure(span=0.01, samples=3, now=lambda: 2 * time.monotonic_ns())
    assert doubled == pytest.approx(honest / 2, rel=0.01)


def test_an_uneven_counter_is_refused():
    """Samples that disagree mean that the counter is no clock."""
    ticks = iter(n * n * 1_000_000 for n in range(100_000))
    with pytest.raises(ValueError, match="does not run evenly"):
        tsc.measure(span=0.001, samples=3, now=lambda: next(ticks))


def test_cpuinfo_counts_only_for_a_constant_counter(tmp_path):
    """Where measuring is forbidden the processor's figure counts if the counter is constant, else not."""

    def forbidden():
        raise PermissionError("no executable memory")

    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("cpu MHz\t\t: 2596.120\nflags\t\t: fpu tsc constant_tsc\n")
    assert tsc.khz(cpuinfo, measured=forbidden) == 2_596_120
    cpuinfo.write_text("cpu MHz\t\t: 2596.120\nflags\t\t: fpu tsc\n")
    with pytest.raises(OSError, match="cannot be found: no executable memory"):
        tsc.khz(cpuinfo, measured=forbidden)
