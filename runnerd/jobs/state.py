"""What a job has come to while it runs: its status, variables, search path and the outputs of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runnerd.jobs import contexts
from runnerd.jobs.environment_files import REFUSED, is_protected, prepend
from runnerd.jobs.spec import JobSpec
from runnerd.machines.driver import Paths
from runnerd.model import Outcome

_SHOWN = {Outcome.TIMED_OUT: "failure", Outcome.LOST: "failure", Outcome.INFRA_ERROR: "failure"}


class JobState:
    """Grows step by step. `status` is what `success()` and its kin ask: success, failure or cancelled."""

    def __init__(self, spec: JobSpec, secrets: Mapping[str, str], paths: Paths, name: str) -> None:
        self.status = "success"
        self.environment: dict[str, str] = {}
        """`env` of workflow and job, and what steps wrote to GITHUB_ENV."""
        self.github = dict(spec.contexts.get("github") or {})
        self.github["workspace"] = contexts.workspace(paths, str(self.github.get("repository", "")))
        self._spec = spec
        self._secrets = dict(secrets)
        self._paths = paths
        self._runner = contexts.runner_context(paths, name, debug=spec.debug)
        self._path: list[str] = []
        self._steps: dict[str, dict[str, Any]] = {}
        self._kept = 0

    @property
    def workspace(self) -> str:
        """GITHUB_WORKSPACE."""
        return str(self.github["workspace"])

    def contexts(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """Return every context a step's expressions may name; `environment` is its `env`."""
        given = self._spec.contexts
        return {
            "github": self.github,
            "env": dict(environment),
            "job": {"status": self.status},
            "steps": self._steps,
            "runner": self._runner,
            "secrets": self._secrets,
            **{name: given.get(name) for name in ("strategy", "matrix", "needs", "inputs", "vars")},
        }

    def variables(self, environment: Mapping[str, str], files: Mapping[str, str]) -> dict[str, str]:
        """Return the whole environment of a step's process, given its `env` and the paths of its files."""
        merged = contexts.base_environment(self._paths) | dict(environment)
        merged["PATH"] = ":".join([*self._path, merged["PATH"]])
        return merged | contexts.runner_environment(self.github, self._runner, self._paths, files)

    def take_variables(self, pairs: list[tuple[str, str]]) -> list[str]:
        """Take what a step wrote to GITHUB_ENV, and return the names it may not set."""
        refused = []
        for name, value in pairs:
            if name in REFUSED or is_protected(name) or "\0" in name + value:
                refused.append(name)
            else:
                self.environment[name] = value
        return refused

    def take_paths(self, added: list[str]) -> None:
        """Take what a step wrote to GITHUB_PATH."""
        self._path = prepend(self._path, [path for path in added if "\0" not in path])

    def take_step(self, key: str, outputs: Mapping[str, str], outcome: Outcome, conclusion: Outcome) -> None:
        """Record how a step ended under its id, for the `steps` context; without an id there is no record."""
        if not conclusion.green and self.status == "success":
            self.status = "failure"
        if key:
            self._steps[key] = {
                "outputs": dict(outputs),
                "outcome": _SHOWN.get(outcome, str(outcome)),
                "conclusion": _SHOWN.get(conclusion, str(conclusion)),
            }

    def room_for(self, outputs: Mapping[str, str]) -> bool:
        """Whether the outputs of all steps together stay in bounds with these; counts them if so."""
        size = sum(len(name) + len(value) for name, value in outputs.items())
        if self._kept + size > self._spec.limits.step_outputs:
            return False
        self._kept += size
        return True
