"""Measure everything and write `bench/results.json`; names as arguments measure only those groups."""

from __future__ import annotations

import sys
from pathlib import Path

from bench import acknowledge, flow, hostile, machines, parse, status
from bench.daemon import ROOT, STATE
from bench.results import Figures, machine, table, write

GROUPS = ("parse", "machines", "flow", "status", "acknowledge")


def main(wanted: list[str]) -> None:
    """Run the groups one after the other; nothing else should run on the machine meanwhile."""
    if unknown := set(wanted) - set(GROUPS):
        raise SystemExit(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    groups = wanted or list(GROUPS)
    figures: Figures = {}
    if {"machines", "flow"} & set(groups):
        _ensure_image()
    if "parse" in groups:
        figures |= parse.measure() | hostile.measure()
    if "machines" in groups:
        figures |= machines.measure()
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


def _ensure_image() -> None:
    from runnerd.cli.image import ensure
    from runnerd.config import load

    config = load(None, environ={"STATE_DIRECTORY": str(STATE), "HOME": str(ROOT)})
    ensure(config, "default", preset="minimal", progress=lambda sentence: print(sentence, file=sys.stderr))


if __name__ == "__main__":
    main(sys.argv[1:])
