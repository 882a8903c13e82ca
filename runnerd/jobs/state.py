"""What a job has come to while it runs: its status, variables, search path and the outputs of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from runnerd.jobs import contexts
from runnerd.jobs.environment_files import prepend
from runnerd.jobs.outcome import storable
from runnerd.jobs.spec import JobSpec
from runnerd.machines.driver import Paths
from runnerd.model import Outcome

_SHOWN = {Outcome.TIMED_OUT: "failure", Outcome.LOST: "failure", Outcome.INFRA_ERROR: "failure"}


class Effects(msgspec.Struct, frozen=True, kw_only=True):
    """What a step did to the steps after it; it shows once `JobState.show` is told."""

    outputs: Mapping[str, str] = {}
    variables: Mapping[str, str] = {}
    """Written to GITHUB_ENV."""
    paths: tuple[str, ...] = ()
    """Written to GITHUB_PATH, in the order written."""


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """How a step ended: its outcome, and its conclusion after `continue-on-error`."""

    outcome: Outcome
    conclusion: Outcome
    effects: Effects = Effects()
    reason: str = ""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One step in the `steps` context."""

    outputs: dict[str, str]
    outcome: str
    conclusion: str


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a job has come to, to be kept; see `JobState`."""

    status: str
    given: Mapping[str, str] = {}
    """The job's own `env`, without what holds a secret."""
    written: Mapping[str, str] = {}
    """What steps wrote to GITHUB_ENV."""
    paths: tuple[str, ...] = ()
    """What they wrote to GITHUB_PATH, as it stands in PATH."""
    steps: Mapping[str, Seen] = {}
    kept: int = 0
    """Characters of all outputs so far."""


class JobState:
    """Grows step by step. `status` is what `success()` and its kin ask: success, failure or cancelled."""

    def __init__(self, spec: JobSpec, secrets: Mapping[str, str], paths: Paths, name: str) -> None:
        self.status = "success"
        self.environment: dict[str, str] = {}
        """`env` of workflow and job, and what steps wrote to GITHUB_ENV."""
        self.host_environment: Mapping[str, str] = {}
        """What the host gives to every process, such as the way out; an `env` overrides it."""
        self.github = dict(spec.contexts.get("github") or {})
        self.github["workspace"] = contexts.workspace(paths, str(self.github.get("repository", "")))
        self._spec = spec
        self._secrets = dict(secrets)
        self._paths = paths
        self._runner = contexts.runner_context(paths, name, debug=spec.debug)
        self._given: dict[str, str] = {}
        self._written: dict[str, str] = {}
        self._path: list[str] = []
        self._steps: dict[str, dict[str, Any]] = {}
        self._kept = 0

    @property
    def workspace(self) -> str:
        """GITHUB_WORKSPACE."""
        return str(self.github["workspace"])

    def goes_on_in(self, name: str) -> None:
        """Another machine, of this name, is in the place of the one before."""
        self._runner = {**self._runner, "name": name}

    def provide(self, environment: Mapping[str, str]) -> None:
        """Add variables that the workflow or the job itself gives to every step."""
        self._given |= environment
        self.environment |= environment

    def contexts(self, environment: Mapping[str, str], action: str = "") -> dict[str, Any]:
        """Return every context a step's expressions may name, given its `env` and `github.action`."""
        given = self._spec.contexts
        return {
            "github": {**self.github, "action": action},
            "env": dict(environment),
            "job": {
                **contexts.job_context(self.github, self._spec.workflow.path, self.status),
                **(given.get("job") or {}),
            },
            "steps": self._steps,
            "runner": self._runner,
            "secrets": self._secrets,
            **{name: given.get(name) for name in ("strategy", "matrix", "needs", "inputs", "vars")},
        }

    def variables(
        self, environment: Mapping[str, str], files: Mapping[str, str], action: str = ""
    ) -> dict[str, str]:
        """Return the environment of a step's process, given its `env`, its files and `github.action`."""
        return contexts.process_environment(
            self._paths,
            host=self.host_environment,
            environment=environment,
            search=self._path,
            github={**self.github, "action": action},
            runner=self._runner,
            files=files,
        )

    def show(self, key: str, effects: Effects, outcome: Outcome, conclusion: Outcome) -> None:
        """Let later steps see what a step did: its variables, its paths and, under its id, how it ended."""
        self.environment |= effects.variables
        self._written |= effects.variables
        self._path = prepend(self._path, list(effects.paths))
        if key:
            self._steps[key] = {
                "outputs": dict(effects.outputs),
                "outcome": _SHOWN.get(outcome, str(outcome)),
                "conclusion": _SHOWN.get(conclusion, str(conclusion)),
            }

    def shown(self, reveals: Callable[[str], bool]) -> Shown:
        """Return what there is to keep; `reveals` tells of a text whether it holds a secret."""
        return Shown(
            status=self.status,
            given={name: storable(value) for name, value in self._given.items() if not reveals(value)},
            written=dict(self._written),
            paths=tuple(self._path),
            steps=msgspec.convert(self._steps, dict[str, Seen]),
            kept=self._kept,
        )

    def resume(self, shown: Shown) -> None:
        """Be as it was kept; what was provided anew takes the place of what was given then."""
        self.status = shown.status
        given = {name: value for name, value in shown.given.items() if name not in self.environment}
        self.environment = {**self.environment, **given, **shown.written}
        self._written = dict(shown.written)
        self._path = list(shown.paths)
        self._steps = {key: msgspec.structs.asdict(seen) for key, seen in shown.steps.items()}
        self._kept = shown.kept

    def count(self, conclusion: Outcome) -> None:
        """Let a step's conclusion count for the job's status. A cancelled step does not make it a failure."""
        if not conclusion.green and conclusion is not Outcome.CANCELLED and self.status == "success":
            self.status = "failure"

    def room_for(self, outputs: Mapping[str, str]) -> bool:
        """Whether the outputs of all steps together stay in bounds with these; counts them if so."""
        size = sum(len(name) + len(value) for name, value in outputs.items())
        if self._kept + size > self._spec.limits.step_outputs:
            return False
        self._kept += size
        return True
