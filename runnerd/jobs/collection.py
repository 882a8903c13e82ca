"""Takes over what a step wrote to its files, for the steps after it; what breaks a format fails the step."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import trio

from runnerd.jobs import environment_files
from runnerd.jobs.console import Console
from runnerd.jobs.contexts import RUNNERS_OWN
from runnerd.jobs.environment_files import BadEnvironmentFile
from runnerd.jobs.spec import JobLimits
from runnerd.jobs.state import Effects, JobState
from runnerd.jobs.workplace import Workplace

_LARGE = 64 << 10
"""Characters that are parsed while the event loop waits."""
_NAMED = 100
"""Variables that are named in the log, at most."""


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What a step left: `failed` if something of it could not be taken, which fails the step."""

    effects: Effects
    summary: str = ""
    failed: bool = False


async def collect(
    place: Workplace, state: JobState, limits: JobLimits, number: int, console: Console
) -> Collected:
    """Read a step's files and judge them; nothing shows to other steps yet. Raises `MachineLost`."""
    sizes = dict.fromkeys(("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH"), limits.environment_file)
    files = await place.read(number, sizes | {"GITHUB_STEP_SUMMARY": limits.summary})
    failed = console.failed
    for variable, problem in files.problems.items():
        failed = failed or variable != "GITHUB_STEP_SUMMARY"
        await console.error(f"Unable to process the file ${variable}: {problem}.")
    outputs, variables = dict(console.outputs), dict(console.variables)
    for variable, taken in (("GITHUB_OUTPUT", outputs), ("GITHUB_ENV", variables)):
        try:
            taken |= await _parsed(files.texts[variable])
        except BadEnvironmentFile as error:
            failed = True
            await console.error(f"Unable to process the file ${variable}: {error}.")
    variables = await _allowed(variables, console)
    if environment_size(state.environment | variables) > limits.environment:
        failed, variables = True, {}
        await console.error("The variables set by way of $GITHUB_ENV are too large together.")
    if not state.room_for(outputs):
        failed, outputs = True, {}
        await console.error("The outputs of this job's steps are too large together; these are dropped.")
    paths = [*console.paths, *environment_files.parse_paths(files.texts["GITHUB_PATH"])]
    return Collected(
        effects=Effects(
            outputs=outputs, variables=variables, paths=tuple(path for path in paths if "\0" not in path)
        ),
        summary=files.texts["GITHUB_STEP_SUMMARY"],
        failed=failed,
    )


def environment_size(variables: Mapping[str, str]) -> int:
    """Return about how many bytes the variables take in a process."""
    return sum(len(name) + len(value) + 2 for name, value in variables.items())


async def _allowed(variables: Mapping[str, str], console: Console) -> dict[str, str]:
    """Leave out, and say, what no step may set for the others."""
    said = 0
    taken = {}
    for name, value in variables.items():
        if environment_files.is_refused(name) or "\0" in name + value:
            problem = f"Can't store {name} by way of $GITHUB_ENV: no step may set it for the others."
        elif name in RUNNERS_OWN:
            problem = f"{name} is set by the runner itself; what $GITHUB_ENV says of it was left out."
        else:
            taken[name] = value
            continue
        said += 1
        if said <= _NAMED:
            await (console.warning if name in RUNNERS_OWN else console.error)(problem)
    return taken


async def _parsed(text: str) -> dict[str, str]:
    if len(text) < _LARGE:
        return dict(environment_files.parse_pairs(text))
    return dict(await trio.to_thread.run_sync(environment_files.parse_pairs, text))
