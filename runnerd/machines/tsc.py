"""The host's time-stamp counter: its rate in kHz.

An emulated microvm has no timer that its kernel could calibrate the counter against; unless it is told the
rate (`tsc_early_khz`), some boots hang for ever, and a wrong rate makes the guest's clock run wrong.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

# rdtsc; shl rdx, 32; or rax, rdx; ret
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")

_ADVERTISED = re.compile(r"^flags\s*:.*\bconstant_tsc\b", re.MULTILINE)


def measure(*, span: float = 0.02, samples: int = 7, now: Callable[[], int] = time.monotonic_ns) -> int:
    """Return the counter's rate in kHz, measured over `samples` spans of `span` seconds.

    Blocks for their sum: call it in a thread. Raises OSError where the host forbids executable memory,
    and ValueError when the samples disagree: then the counter is of no use as a clock.
    """
    read = _reader()
    rates = sorted(_sample(read, span, now) for _ in range(samples))
    middle = statistics.median(rates)
    if middle <= 0 or rates[-1] - rates[0] > middle * 0.05:
        raise ValueError(
            f"the time-stamp counter of this host does not run evenly: {rates[0]:.0f}–{rates[-1]:.0f} kHz"
        )
    return round(middle)


def khz(cpuinfo: Path = Path("/proc/cpuinfo"), *, measured: Callable[[], int] = measure) -> int:
    """Return the counter's rate in kHz, or raise OSError that says why this host cannot tell.

    Measured where possible. `/proc/cpuinfo` is asked only where that is forbidden and the counter is
    constant: elsewhere its figure is the processor's momentary clock, not the counter's rate.
    """
    try:
        return measured()
    except (OSError, ValueError) as error:
        text = cpuinfo.read_text()
        figure = re.search(r"^cpu MHz\s*:\s*([0-9.]+)", text, re.MULTILINE)
        if figure is None or not _ADVERTISED.search(text):
            raise OSError(f"the rate of this host's time-stamp counter cannot be found: {error}") from error
        return round(float(figure.group(1)) * 1000)


def _sample(read: Callable[[], int], span: float, now: Callable[[], int]) -> float:
    """One rate: the counter is read between two looks at the clock, and the closest of a few pairs counts."""
    start = _pair(read, now)
    time.sleep(span)
    end = _pair(read, now)
    return (end[1] - start[1]) * 1e6 / (end[0] - start[0])


def _pair(read: Callable[[], int], now: Callable[[], int]) -> tuple[int, int]:
    best = None
    for _ in range(20):
        before, count, after = now(), read(), now()
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) // 2, count)
    assert best is not None
    return best[1], best[2]


def _reader() -> Callable[[], int]:
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(_RDTSC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    function = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)

    def read() -> int:
        # The closure keeps the page mapped for as long as it can be called.
        assert not memory.closed
        return int(function())

    return read
