"""How fast deliveries are made durable and acknowledged."""

from __future__ import annotations

import time

from bench.daemon import daemon
from bench.results import Figures, single, spread

QUIET = """
on:
  push:
    branches: [another]
jobs:
  a:
    runs-on: ubuntu-latest
    steps: [{run: 'true'}]
"""
"""A workflow that the pushes do not start; each is still read, matched and settled while more arrive."""


def measure() -> Figures:
    """Requests per second and their times, at 1 and at 16 connections, the ledger on a real disk."""
    figures: Figures = {}
    with daemon(QUIET, fake=True) as running:
        running.load(4, 200)
        for connections, count in ((1, 1500), (16, 6000)):
            time.sleep(3)
            answer = running.load(connections, count)
            times = answer["ms"]
            assert isinstance(times, list)
            figures[f"ack_rate_c{connections}"] = single(count / float(str(answer["seconds"])), "1/s")
            figures[f"ack_c{connections}"] = spread(times)
    return figures
