"""Figures, the machine they were measured on, and how both are written down."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Figures = dict[str, dict[str, Any]]
"""Name to `{"unit": …, "value" | "p50", "p99", "n"}`: times in ms, sizes in MiB, rates per second."""


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def spread(values: Sequence[float], unit: str = "ms") -> dict[str, Any]:
    """A figure of many measurements."""
    return {
        "unit": unit,
        "p50": round(quantile(values, 0.5), 3),
        "p99": round(quantile(values, 0.99), 3),
        "n": len(values),
    }


def single(value: float, unit: str) -> dict[str, Any]:
    """A figure of one measurement."""
    return {"unit": unit, "value": round(value, 2)}


def machine() -> dict[str, Any]:
    """What was measured on."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in info.splitlines() if "model name" in line), "?")
    memory = next(
        int(line.split()[1]) // 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if "MemTotal" in line
    )
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=False)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "qemu": (qemu.stdout.splitlines() or ["none"])[0],
    }


def write(path: Path, figures: Figures, about: dict[str, Any]) -> None:
    """Write the figures, keeping those of an earlier run on the same machine that were not measured now."""
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        before = {}
    kept = before.get("figures", {}) if before.get("machine", {}).get("cpu") == about["cpu"] else {}
    path.write_text(json.dumps({"machine": about, "figures": {**kept, **figures}}, indent=2) + "\n")


def table(figures: Figures) -> str:
    """The figures for people."""
    rows = [("figure", "value / p50", "p99", "unit", "n")]
    for name, figure in figures.items():
        first = figure.get("value", figure.get("p50"))
        rows.append(
            (name, f"{first:g}", f"{figure.get('p99', ''):}", figure["unit"], str(figure.get("n", "")))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )
