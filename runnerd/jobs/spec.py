"""What there is to run: one job of one run, with the contexts that are known before a machine is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runnerd.model import JobRecord, RunRecord
from runnerd.workflow.model import Job, Workflow


class JobLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one job may hand to the host. Sizes in bytes."""

    environment_file: int = 4 << 20
    """Each of GITHUB_ENV, GITHUB_OUTPUT and GITHUB_PATH after a step."""
    environment: int = 1 << 20
    """All variables of a step together."""
    summary: int = 1 << 20
    """Each step's summary, and all of a job's together."""
    outputs: int = 1 << 20
    """All outputs of a job together."""
    step_outputs: int = 50 << 20
    """All outputs of a job's steps together."""
    annotations: int = 10
    """Of each level, per step."""
    masks: int = 200
    """Values a job may add with `add-mask`."""
    hash_seconds: float = 120.0


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One job to run."""

    run: RunRecord
    record: JobRecord
    workflow: Workflow
    job: Job
    contexts: Mapping[str, Any]
    """`github` (of `github_context`), `needs`, `strategy`, `matrix`, `inputs`, `vars`, and of `job` what is
    known without a machine."""
    default_timeout_minutes: float = 360.0
    cancel_minutes: float = 5.0
    """How long steps may go on after a cancellation, where the job says nothing."""
    debug: bool = False
    """Show `::debug::` lines and set RUNNER_DEBUG."""
    limits: JobLimits = JobLimits()


def wants_debug(spec: JobSpec, secrets: Mapping[str, str]) -> bool:
    """Whether the repository asks for `::debug::` lines: by a secret or variable ACTIONS_STEP_DEBUG."""
    variables = spec.contexts.get("vars") or {}
    return "true" in (secrets.get("ACTIONS_STEP_DEBUG"), variables.get("ACTIONS_STEP_DEBUG"))
