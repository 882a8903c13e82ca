"""One step, from its `if` to its outputs, as GitHub's runner takes it."""

from __future__ import annotations

import posixpath
import signal
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, TypeVar

import msgspec
import trio

from runnerd.jobs import shells
from runnerd.jobs.checkout import ACTION, CheckoutRefused, read_inputs
from runnerd.jobs.collection import environment_size
from runnerd.jobs.console import Console
from runnerd.jobs.evaluation import Functions, evaluated, status_functions
from runnerd.jobs.keys import NAME, StepFailed, default_name, environment_of, minutes_of
from runnerd.jobs.ports import Checkout
from runnerd.jobs.sequence import Placed
from runnerd.jobs.shells import NoShell
from runnerd.jobs.spec import JobSpec
from runnerd.jobs.state import Effects, JobState
from runnerd.jobs.workplace import Workplace
from runnerd.machines.driver import Command, Exit, Machine
from runnerd.model import Event, Outcome
from runnerd.workflow import ExpressionError, condition, interpolate, value_of
from runnerd.workflow.model import Defaults, Scalar

T = TypeVar("T")


_UNSECURE = "ACTIONS_ALLOW_UNSECURE_COMMANDS"
_NAMED = 100
"""Variables that are named in the log, at most."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a step ended by itself, before `continue-on-error`."""

    outcome: Outcome
    exit_code: int | None = None
    reason: str = ""
    effects: Effects = Effects()
    summary: str = ""


class StepRun:
    """One step of a job that is running. `evaluate_env` first, then `holds`, then `run`."""

    def __init__(
        self,
        spec: JobSpec,
        placed: Placed,
        state: JobState,
        place: Workplace,
        machine: Machine,
        checkout: Checkout,
    ) -> None:
        self.step = placed.step
        self.number = placed.number
        self.environment: dict[str, str] = dict(state.environment)
        self._placed = placed
        self._spec = spec
        self._state = state
        self._place = place
        self._machine = machine
        self._checkout = checkout

    async def evaluate_env(self) -> None:
        """Work out the step's `env` on top of the job's; raises `StepFailed`."""
        contexts = self._contexts()
        self.environment |= await self._evaluate(lambda f: environment_of(self.step.env, contexts, f), "env")

    async def holds(self) -> bool:
        """Whether the step's `if` holds now; raises `StepFailed` when it cannot be told."""
        if self._placed.control:
            return True
        written = [self.step.condition]
        if self._placed.group is not None:
            written.insert(0, self._placed.group)
        for each in written:
            if not await self._holds(each):
                return False
        return True

    async def name(self) -> str:
        """The step's name as people see it."""
        written = default_name(self.step) if self.step.name is None else self.step.name
        contexts = self._contexts()
        try:
            text = await self._evaluate(lambda f: interpolate(written, contexts, functions=f), "name")
        except StepFailed:
            text = str(written)
        return " ".join(text.split())[:NAME] or default_name(self.step)

    async def minutes(self) -> float | None:
        """The step's `timeout-minutes`; None when it has none. Raises `StepFailed`."""
        return minutes_of(await self._value(self.step.timeout_minutes, "timeout-minutes"), "timeout-minutes")

    async def may_fail(self) -> bool:
        """Whether the step's `continue-on-error` holds; raises `StepFailed`."""
        value = await self._value(self.step.continue_on_error, "continue-on-error")
        return value is True or value == "true"

    async def run(self, console: Console) -> Ended:
        """Do the step, whatever its `if` says. Raises `StepFailed`, `MachineLost`, and `Cancelled`."""
        if self.step.run is not None:
            return await self._script(console)
        if self.step.uses is not None and ACTION.fullmatch(self.step.uses):
            return await self._check_out(console)
        if self.step.uses is not None:
            raise StepFailed(
                f"the action {self.step.uses} cannot be run yet; only `run` steps and actions/checkout can"
            )
        raise StepFailed("a step that waits or cancels does nothing by itself")

    async def _script(self, console: Console) -> Ended:
        text = await self._text(self.step.run, "run")
        defaults = self._defaults()
        try:
            shell = shells.choose(await self._optional(defaults.shell, "shell"), self._place.shells)
        except NoShell as error:
            raise StepFailed(str(error)) from error
        folder = posixpath.join(
            self._state.workspace, await self._optional(defaults.working_directory, "working-directory") or ""
        )
        variables = self._state.variables(
            self.environment, self._place.files(self.number), self._placed.action
        )
        self._check(variables)
        await self._introduce(console, text, f"shell: {shell.display}")
        self._place.used = True
        console.unsecure = self.environment.get(_UNSECURE, "").strip().lower() == "true"
        try:
            script = await self._place.put_script(self.number, shell.suffix, shell.script(text))
            command = Command(argv=shell.argv(script), env=variables, cwd=posixpath.normpath(folder))
            ended = await self._machine.exec(command, console.output)
        except (OSError, ValueError) as error:
            raise StepFailed(f"the shell could not be started in {folder}: {error}") from error
        finally:
            with trio.CancelScope(shield=True):
                await console.end()
        return await _judged(ended, console)

    async def _check_out(self, console: Console) -> Ended:
        inputs = {name: await self._text(value, f"with.{name}") for name, value in self.step.with_.items()}
        shown = "".join(f"\n  {name}: {value}" for name, value in inputs.items())
        await self._introduce(console, "", f"with:{shown}" if shown else "")
        try:
            request = read_inputs(inputs, github=self._state.github, workspace=self._state.workspace)
        except CheckoutRefused as error:
            raise StepFailed(str(error)) from error
        for note in request.notes:
            await console.line(f"Note: {note}.")
        event: Event = self._spec.run.event
        server = self._state.github.get("server_url", "")
        try:
            if self._place.used and request.clean:
                await self._place.empty(request.folder)
            self._place.used = True
            sha, ref = await self._checkout.checkout(
                self._machine,
                repository=event.repository,
                ref=request.ref,
                sha=request.sha,
                into=request.folder,
                depth=request.depth,
                url=f"{server}/{event.repository.full_name}",
            )
        except (OSError, ValueError) as error:
            raise StepFailed(f"the checkout failed: {error}") from error
        await console.line(
            f"{sha}{f' ({ref})' if ref else ''} is in {request.folder}; no token entered the machine"
        )
        return Ended(outcome=Outcome.SUCCESS, effects=Effects(outputs={"commit": sha, "ref": ref}))

    async def _introduce(self, console: Console, script: str, details: str) -> None:
        """Log what is run, with which variables, in a group as GitHub does."""
        await console.line(f"##[group]{default_name(self.step, script)}")
        for line in script.splitlines():
            await console.line(f"\x1b[36;1m{line}\x1b[0m")
        if details:
            await console.line(details)
        if self.environment:
            await console.line("env:")
            for name, value in islice(self.environment.items(), _NAMED):
                await console.line(f"  {name}: {value}")
            if len(self.environment) > _NAMED:
                await console.line(f"  and {len(self.environment) - _NAMED} more")
        await console.line("##[endgroup]")

    def _defaults(self) -> Defaults:
        shell, folder = self.step.shell, self.step.working_directory
        for defaults in (self._spec.job.defaults, self._spec.workflow.defaults):
            shell = defaults.shell if shell is None else shell
            folder = defaults.working_directory if folder is None else folder
        return Defaults(shell=shell, working_directory=folder)

    def _check(self, variables: Mapping[str, str]) -> None:
        size = environment_size(variables)
        if size > self._spec.limits.environment:
            raise StepFailed(
                f"the step's environment has {size >> 10} KiB; at most {self._spec.limits.environment >> 10} "
                "KiB can be given to a process. Large data belongs into files"
            )
        for name, value in variables.items():
            if "\0" in name + value or "=" in name or not name:
                raise StepFailed(f"the environment variable {name[:80]!r} has a NUL or '=' where none can be")

    async def _holds(self, written: Scalar) -> bool:
        contexts = self._contexts()
        return await self._evaluate(lambda f: condition(written, contexts, functions=f), "if")

    def _contexts(self) -> dict[str, Any]:
        return self._state.contexts(self.environment, self._placed.action)

    async def _text(self, written: Scalar, key: str) -> str:
        contexts = self._contexts()
        return await self._evaluate(lambda f: interpolate(written, contexts, functions=f), key)

    async def _optional(self, written: str | None, key: str) -> str | None:
        return None if written is None else await self._text(written, key)

    async def _value(self, written: Scalar, key: str) -> Any:
        contexts = self._contexts()
        return await self._evaluate(lambda f: value_of(written, contexts, functions=f), key)

    async def _evaluate(self, compute: Callable[[Functions], T], key: str) -> T:
        async def hash_files(patterns: tuple[str, ...]) -> str:
            return await self._place.hash_files(patterns, seconds=self._spec.limits.hash_seconds)

        try:
            return await evaluated(compute, status_functions(self._state.status), hash_files)
        except (ExpressionError, OSError, ValueError) as error:
            raise StepFailed(f"`{key}` cannot be evaluated: {error}") from error


async def _judged(ended: Exit, console: Console) -> Ended:
    """Say how a script ended; only a received exit status 0 is a success."""
    causes = []
    if ended.out_of_memory:
        # Which process it was, and who had set it a limit, the kernel does not count.
        causes.append(
            "The machine, or a control group in it, ran out of memory while this step ran, "
            "and its kernel killed a process."
        )
    if ended.disk_full:
        causes.append("The machine's disk is full: see `disk` of its image in config.toml.")
    for cause in causes:
        await console.error(cause)
    if ended.success:
        return Ended(outcome=Outcome.SUCCESS, exit_code=0)
    if ended.signal is not None:
        name = signal.Signals(ended.signal).name if ended.signal in set(signal.Signals) else "a signal"
        reason = f"Process was ended by {name} ({ended.signal})."
    elif ended.code is not None:
        reason = f"Process completed with exit code {ended.code}."
    else:
        reason = "The machine did not say how the process ended."
        await console.error(reason)
        return Ended(outcome=Outcome.INFRA_ERROR, reason=reason)
    await console.error(reason)
    # Whoever reads only the job's reason learns what brought the process down.
    return Ended(outcome=Outcome.FAILURE, exit_code=ended.code, reason=" ".join([*causes, reason]))
