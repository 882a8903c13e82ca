"""The wiring: which actors there are, in which order, over which channels.

`serve` is the daemon; `run_once` runs a checkout's workflows with the same executor and pool, without a
receiver and without a forge.
"""

from __future__ import annotations

from runnerd.daemon.once import Nothing, Report, Request, Unusable, run_once
from runnerd.daemon.serve import serve

__all__ = ["Nothing", "Report", "Request", "Unusable", "run_once", "serve"]
