"""Reading settings: `defaults`, `permissions` and `concurrency` of workflows and jobs, `environment`."""

from __future__ import annotations

from typing import Any

from runnerd.workflow.model import Concurrency, Defaults
from runnerd.workflow.reader.scalars import boolean, one_of, text, words
from runnerd.workflow.reader.scope import ENVIRONMENT_URL, JOB, JOB_DEFAULTS, NOWHERE, RUN, Scope
from runnerd.workflow.reader.source import Field, Source, Table
from runnerd.workflow.yaml import Map, Seq

_ANY = ("read", "write", "none")
PERMISSIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "actions",
            "artifact-metadata",
            "attestations",
            "checks",
            "code-quality",
            "contents",
            "copilot-requests",
            "deployments",
            "discussions",
            "drives",
            "issues",
            "packages",
            "pages",
            "pull-requests",
            "repository-projects",
            "security-events",
            "statuses",
        ),
        _ANY,
    ),
    "id-token": ("write", "none"),
    "models": ("read", "none"),
    "vulnerability-alerts": ("read", "none"),
}
"""What each scope of the token may be set to."""


def defaults(source: Source, value: Any, at: Any, scope: Scope) -> Defaults:
    """`defaults`, of which `run` is all there is."""
    found = source.mapping(value, at)
    if found is None:
        return Defaults()
    run = source.fields(found, {"run": Field("run", _run, scope)}, "key of defaults").get("run")
    return run if isinstance(run, Defaults) else Defaults()


def _run(source: Source, value: Any, at: Any, scope: Scope) -> Defaults:
    found = source.mapping(value, at)
    table = _JOB_RUN if scope.allowed else _WORKFLOW_RUN
    return Defaults() if found is None else Defaults(**source.fields(found, table, "key of defaults.run"))


def _run_table(scope: Scope) -> Table:
    return {
        "shell": Field("shell", words, scope),
        "working-directory": Field("working_directory", words, scope),
    }


_WORKFLOW_RUN, _JOB_RUN = _run_table(NOWHERE), _run_table(JOB_DEFAULTS)


def permissions(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    """`read-all`, `write-all`, or a plain dict of scopes to levels."""
    if type(value) is not Map:
        if type(value) is Seq or value not in ("read-all", "write-all"):
            if isinstance(value, str) and value:
                source.unexpected(at, value, ("read-all", "write-all"), "value")
            else:
                source.mapping(value, at)
            return None
        return value
    out: dict[str, str] = {}
    for name, level in value.items():
        if name not in PERMISSIONS:
            source.unexpected(value.keys_at[name], name, PERMISSIONS, "permission")
        else:
            out[name] = one_of(*PERMISSIONS[name])(source, level, value.values_at[name], NOWHERE)
    return out


def concurrency(source: Source, value: Any, at: Any, scope: Scope) -> Concurrency | None:
    """A group by name, or a mapping of `group`, `cancel-in-progress` and `queue`."""
    if type(value) is not Map:
        return Concurrency(group=words(source, value, at, scope))
    table = _RUN_CONCURRENCY if scope == RUN else _JOB_CONCURRENCY
    found = source.fields(value, table, "key of concurrency")
    if "group" not in value:
        source.missing(at, "group", "concurrency")
        return None
    if found.get("queue") == "max" and found.get("cancel_in_progress") is True:
        source.problem(
            at, "concurrency cannot both keep a queue (`queue: max`) and cancel what is in progress"
        )
    return Concurrency(**found)


def _concurrency_table(scope: Scope) -> Table:
    return {
        "group": Field("group", words, scope),
        "cancel-in-progress": Field("cancel_in_progress", boolean, scope),
        "queue": Field("queue", one_of("single", "max"), NOWHERE),
    }


_RUN_CONCURRENCY, _JOB_CONCURRENCY = _concurrency_table(RUN), _concurrency_table(JOB)

_ENVIRONMENT: Table = {
    "name": Field("name", text, JOB),
    "url": Field("url", text, ENVIRONMENT_URL),
    "deployment": Field("deployment", boolean, JOB),
}


def environment(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    """The environment's name, or a plain dict of `name`, `url` and `deployment`."""
    source.cannot(
        at,
        "the protection rules of an environment are not applied: nobody is asked before the job runs",
        "warning",
    )
    if type(value) is not Map:
        return text(source, value, at, scope)
    found = source.fields(value, _ENVIRONMENT, "key of environment")
    if "name" not in value:
        source.missing(at, "name", "environment")
    return found
