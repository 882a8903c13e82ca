"""The configuration: config.toml, environment and credentials become one frozen, checked `Config`.

Names load on first use, so that a command that wants a path only loads nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runnerd.config.loading import ConfigErrors, Problem, check, load
    from runnerd.config.sections import Config, Secret, Setting

__all__ = ["Config", "ConfigErrors", "Problem", "Secret", "Setting", "check", "load"]

_SECTIONS = ("Config", "Secret", "Setting")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "sections" if name in _SECTIONS else "loading"
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
