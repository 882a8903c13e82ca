"""Measure everything and write `bench/results.json`; names as arguments measure only those groups.

`soak` is no measurement and stands alone: see bench/soak.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench import acknowledge, flow, hostile, machines, parse, pool, soak, status
from bench.daemon import ensure_image
from bench.results import Figures, machine, table, write

GROUPS = ("parse", "machines", "pool", "flow", "status", "acknowledge")


def main(wanted: list[str]) -> None:
    """Run the groups one after the other; nothing else should run on the machine meanwhile."""
    if wanted[:1] == ["soak"]:
        raise SystemExit(soak.main(wanted[1:]))
    if unknown := set(wanted) - set(GROUPS):
        raise SystemExit(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    groups = wanted or list(GROUPS)
    figures: Figures = {}
    if {"machines", "pool", "flow"} & set(groups):
        ensure_image()
    if "parse" in groups:
        figures |= parse.measure() | hostile.measure()
    if "machines" in groups:
        figures |= machines.measure()
    if "pool" in groups:
        figures |= pool.measure()
    if "flow" in groups:
        bare = figures.get("bare_bash", {}).get("p50")
        figures |= flow.measure(bare)
    if "status" in groups:
        figures |= status.measure()
    if "acknowledge" in groups:
        figures |= acknowledge.measure()
    about = machine()
    write(Path(__file__).parent / "results.json", figures, about)
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    print(table(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
