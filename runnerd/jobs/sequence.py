"""A job's steps in the order they are taken: groups opened, each with its number and name. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from runnerd.workflow.model import Scalar, Step

_ACTION = 98
"""Characters of a name that is made for a step, besides its two underscores."""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """One step where it stands. `number` counts from 1, as people are shown it."""

    number: int
    step: Step
    action: str
    """`github.action`: the step's id, or the name GitHub makes for one without."""
    background: bool = False
    group: Scalar = None
    """The `if` of the `parallel` the step is in, which has to hold besides its own; None: there is none."""
    targets: tuple[int, ...] = ()
    """The steps that a `wait` or a `cancel` names."""

    @property
    def control(self) -> bool:
        """Whether it waits for other steps or cancels them; such a step runs always."""
        return self.step.run is None and self.step.uses is None


def placed(steps: Sequence[Step]) -> tuple[Placed, ...]:
    """Return the steps of a job as they are taken.

    A `parallel` becomes its steps, each in the background, and a `wait` for them. Its `if` holds for each of
    them, and its `continue-on-error` for those that have none of their own.
    """
    out: list[Placed] = []
    named: dict[str, int] = {}
    made: dict[str, int] = {}

    def put(
        step: Step, *, background: bool = False, group: Scalar = None, targets: tuple[int, ...] = ()
    ) -> int:
        number = len(out) + 1
        if step.id:
            named[step.id.lower()] = number
        out.append(
            Placed(
                number=number,
                step=step,
                action=step.id or _made(step, made),
                background=background,
                group=group,
                targets=targets,
            )
        )
        return number

    for step in steps:
        if step.parallel is None:
            meant = (named.get(name.lower()) for name in (*(step.wait or ()), *(step.cancel or ())))
            targets = tuple(number for number in meant if number is not None)
            put(step, background=step.background is True, targets=targets)
            continue
        inner = []
        for each in step.parallel:
            if each.continue_on_error is False:
                each = msgspec.structs.replace(each, continue_on_error=step.continue_on_error)
            inner.append(put(each, background=True, group=step.condition))
        rest = msgspec.structs.replace(step, parallel=None, condition=None, wait=())
        put(rest, targets=tuple(inner))
    return tuple(out)


def _made(step: Step, made: dict[str, int]) -> str:
    """Return GitHub's name for a step without an id: `__run`, `__run_2`, `__actions_checkout`."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", _kind(step))[:_ACTION]
    made[name.lower()] = count = made.get(name.lower(), 0) + 1
    return f"__{name}" if count == 1 else f"__{name[: _ACTION - 1 - len(str(count))]}_{count}"


def _kind(step: Step) -> str:
    if step.uses is not None:
        if step.uses.startswith(("./", ".\\", "$/")):
            return "self"
        if step.uses.startswith("docker://"):
            return step.uses.removeprefix("docker://")
        return "/".join(step.uses.partition("@")[0].split("/")[:2])
    if step.run is not None:
        return "run"
    return "wait-all" if step.wait_all else "cancel" if step.cancel is not None else "wait"
