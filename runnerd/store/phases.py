"""The one gate through which runs and jobs change their phase: `model.PHASES`, and nothing else."""

from __future__ import annotations

from runnerd.model import PHASES, Phase
from runnerd.store.errors import IllegalTransition


def step(what: str, now: Phase, then: Phase) -> Phase:
    """Return `then` when it may follow `now`; raises `IllegalTransition` naming both and `what`."""
    if then not in PHASES[now]:
        raise IllegalTransition(f"{what} is {now} and cannot become {then}")
    return then
