"""Where jobs' machines are kept, as the configuration has it, and the key for those that hold secrets."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from runnerd.config import Config
from runnerd.machines import kept
from runnerd.machines.kept import KeptMachines
from runnerd.machines.quota import Limits


def kept_machines(
    config: Config,
    state: Path,
    clock: Callable[[], float],
    awaited: Callable[[], Collection[str]] = frozenset,
) -> KeptMachines:
    """All that is kept under a state directory; `awaited` is as `KeptMachines` has it."""
    given = config.snapshots
    limits = Limits(count=given.count, age=given.age, disk=given.disk << 20, limit=given.limit)
    key = Path(given.key) if given.key else None
    return KeptMachines(
        state / "kept",
        limits,
        clock=clock,
        key_file=key,
        seals=given.secrets and key is not None,
        awaited=awaited,
    )


def why_no_key(config: Config) -> str:
    """Make the key where it is wanted and there is none; return why it cannot be had, or nothing. Blocks."""
    if not config.snapshots.secrets:
        return ""
    try:
        kept.make_key(Path(config.snapshots.key))
        kept_machines(config, config.state_directory, float).key()
    except OSError as error:
        return f"the key of [snapshots] cannot be used: {error}"
    return ""
