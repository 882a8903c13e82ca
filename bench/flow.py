"""The whole way: from a signed webhook to the first line, to a step's overhead, to the terminal report."""

from __future__ import annotations

import itertools
import json
import time
from datetime import datetime

from bench.daemon import Daemon, daemon
from bench.results import Figures, single, spread

HELLO = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps: [{run: 'echo hello from the job'}]\n"
TRUE = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n" + "      - run: 'true'\n" * 30
FIRST_OUTPUTS, FAKE_RUNS, VM_RUNS = 25, 400, 60


def measure(bare_bash: float | None) -> Figures:
    """Every figure that needs the whole daemon; `bare_bash` is the guest's own p50 for a step, in ms."""
    figures: Figures = {}
    with daemon(HELLO, pool="min_idle = 2", starts=2) as running:
        time.sleep(8)
        figures["idle_rss"] = single(running.resident(), "MiB")
        times = []
        for _ in range(FIRST_OUTPUTS):
            times.append(_first_output(running))
            time.sleep(1)  # the pool is full again
        figures["webhook_to_first_output"] = spread(times)
        figures["runs_per_second_vm"] = single(_runs_per_second(running, VM_RUNS), "1/s")
    if bare_bash is not None:
        with daemon(TRUE) as running:
            figures["step_overhead"] = spread([own - bare_bash for own in _steps(running)])
    figures |= _kept_steps()
    with daemon(HELLO, fake=True) as running:
        _runs_per_second(running, 50)
        figures["runs_per_second"] = single(_runs_per_second(running, FAKE_RUNS), "1/s")
    return figures


def _first_output(running: Daemon) -> float:
    """From the acknowledgement of a webhook to the time stamp of the step's first line, in ms."""
    before = running.reports()
    running.load(1, 1)
    accepted = time.time()
    _wait_for_reports(running, before + 1)
    newest = max((running.state / "logs").glob("*/*.log"), key=lambda path: path.stat().st_mtime_ns)
    (line,) = (line for line in newest.read_text().splitlines() if line.endswith("Z hello from the job"))
    return (datetime.fromisoformat(line.split(" ")[0]).timestamp() - accepted) * 1000


def _kept_steps() -> Figures:
    """What a step takes from its start to the next one's, by which machines are kept before it."""
    figures: Figures = {}
    for mode in ("off", "on-failure", "each-step"):
        with daemon(TRUE, snapshots=f'mode = "{mode}"') as running:
            figures[f"step_snapshots_{mode.replace('-', '_')}"] = spread(_steps(running))
    return figures


def _steps(running: Daemon) -> list[float]:
    """From the start of one `run: true` to the start of the next, in ms."""
    running.load(1, 1)
    _wait_for_reports(running, 1)
    (report,) = (running.state / "reports").glob("*.json")
    steps = _find_steps(json.loads(report.read_text()))
    starts = [step["started"] for step in steps]
    return [(b - a) * 1000 for a, b in itertools.pairwise(starts[3:])]


def _find_steps(report: dict[str, object]) -> list[dict[str, float]]:
    jobs = report["jobs"]
    assert isinstance(jobs, list)
    return list(jobs[0]["steps"])


def _runs_per_second(running: Daemon, count: int) -> float:
    """Runs per second from the first webhook of a burst to the last terminal report."""
    before = running.reports()
    started = time.perf_counter()
    running.load(8, count)
    _wait_for_reports(running, before + count)
    return count / (time.perf_counter() - started)


def _wait_for_reports(running: Daemon, count: int) -> None:
    deadline = time.monotonic() + 120
    while running.reports() < count:
        if time.monotonic() > deadline:
            said = (running.folder / "log").read_text()[-2000:]
            raise SystemExit(f"{running.reports()} of {count} reports came; the daemon said: {said}")
        time.sleep(0.01)
