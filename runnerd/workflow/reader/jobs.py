"""Reading `jobs`: each either steps on a machine or a call of a reusable workflow."""

from __future__ import annotations

from typing import Any

import msgspec

from runnerd.workflow.model import Job
from runnerd.workflow.reader import machines
from runnerd.workflow.reader.needs import resolve_needs
from runnerd.workflow.reader.scalars import (
    INSERT,
    boolean,
    check_identifier,
    condition,
    no_expression_map,
    number,
    scalar_map,
    text,
    text_list,
    text_map,
    words,
)
from runnerd.workflow.reader.scope import (
    JOB,
    JOB_DEFAULTS,
    JOB_IF,
    JOB_SECRETS,
    NOWHERE,
    RUNNER,
    STRATEGY,
    Scope,
)
from runnerd.workflow.reader.settings import concurrency, defaults, environment, permissions
from runnerd.workflow.reader.source import Field, Source, Table, place
from runnerd.workflow.reader.steps import steps
from runnerd.workflow.reader.strategy import strategy
from runnerd.workflow.yaml import Map, Seq


def jobs(source: Source, value: Any, at: Any, scope: Scope) -> dict[str, Job]:
    """All jobs in the order of the file, their needs by the ids of the file."""
    mapping = source.mapping(value, at)
    if mapping is None:
        return {}
    found: dict[str, Job] = {}
    for name, body in mapping.items():
        key_at = mapping.keys_at[name]
        if not name or "${{" in name:
            source.unexpected(key_at, name, (), "job id")
            continue
        check_identifier(source, name, key_at)
        inner = source.mapping(body, mapping.values_at[name])
        if inner is not None:
            found[name] = _job(source, name, inner, key_at, mapping.values_at[name])
    if len(found) == len(mapping):
        needs = resolve_needs(source, found, mapping, at)
        found = {
            name: job if job.needs == needs[name] else msgspec.structs.replace(job, needs=needs[name])
            for name, job in found.items()
        }
    return found


def _job(source: Source, name: str, mapping: Map, key_at: Any, at: Any) -> Job:
    call = "uses" in mapping and "runs-on" not in mapping
    fields = source.fields(
        mapping, _CALL if call else _JOB, "key of a job that calls a workflow" if call else "key of a job"
    )
    if not call:
        if "runs-on" not in mapping:
            source.missing(at, "runs-on", f"Job {name[:100]!r}")
        if "steps" not in mapping and "uses" not in mapping:
            source.cannot(at, f"Job {name[:100]!r} has no steps, so there is nothing to run")
    for key in ("env", "outputs"):
        inner = fields.get(key)
        if isinstance(inner, dict) and INSERT in inner:
            source.cannot(mapping.values_at[key], f"`{INSERT}` in {key} is not supported: write the entries")
    return Job(id=name, **fields, place=place(key_at))


def _call_secrets(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    if type(value) is Map:
        found = scalar_map(source, value, at, scope)
        if INSERT in found:
            source.cannot(at, f"`{INSERT}` in secrets is not supported: write the entries")
        return found
    if value != "inherit":
        if type(value) is Seq or not isinstance(value, str):
            source.mapping(value, at)
        else:
            source.unexpected(at, value, ("inherit",), "value")
    return "inherit"


_COMMON: Table = {
    "name": Field("name", text, JOB),
    "needs": Field("needs", text_list, NOWHERE),
    "if": Field("condition", condition, JOB_IF),
    "permissions": Field("permissions", permissions, NOWHERE),
    "concurrency": Field("concurrency", concurrency, JOB),
    "strategy": Field("strategy", strategy, STRATEGY),
}
_JOB: Table = {
    **_COMMON,
    "runs-on": Field("runs_on", machines.runs_on, JOB),
    "timeout-minutes": Field("timeout_minutes", number, JOB),
    "cancel-timeout-minutes": Field("cancel_timeout_minutes", number, JOB),
    "continue-on-error": Field("continue_on_error", boolean, JOB),
    "container": Field("container", machines.container, JOB),
    "services": Field("services", machines.services, JOB),
    "env": Field("env", text_map, JOB_SECRETS),
    "environment": Field("environment", environment, JOB),
    "outputs": Field("outputs", no_expression_map, RUNNER),
    "defaults": Field("defaults", defaults, JOB_DEFAULTS),
    "steps": Field("steps", steps, NOWHERE),
    "snapshot": Field("snapshot", machines.snapshot, JOB),
}
_CALL: Table = {
    **_COMMON,
    "uses": Field("uses", words, NOWHERE),
    "with": Field("with_", scalar_map, JOB),
    "secrets": Field("secrets", _call_secrets, JOB_SECRETS),
}
