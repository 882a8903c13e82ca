"""Reading `steps`: what runs, what an action is given, and the control words of background steps."""

from __future__ import annotations

import re
from typing import Any

from runnerd.workflow.model import Step
from runnerd.workflow.reader.scalars import (
    INSERT,
    boolean,
    condition,
    identifier,
    no_expression_map,
    number,
    text,
    text_list,
    text_map,
    words,
)
from runnerd.workflow.reader.scope import NOWHERE, STEP, STEP_IF, Scope
from runnerd.workflow.reader.source import Field, Source, Table, place
from runnerd.workflow.yaml import Map, Seq

_REPOSITORY = re.compile(r"[^/@]+/[^/@]+(/[^@]*)?@.+", re.S).fullmatch


def steps(source: Source, value: Any, at: Any, scope: Scope) -> tuple[Step, ...]:
    """The steps of a job; their ids are unique without case, and control steps name steps before them."""
    found = source.sequence(value, at)
    if found is None:
        return ()
    if not found:
        source.cannot(at, "the job has no steps, so there is nothing to run")
    seen: dict[str, bool] = {}
    return _sequence(source, found, seen)


def _sequence(source: Source, items: Seq, seen: dict[str, bool]) -> tuple[Step, ...]:
    out = []
    for item, at in zip(items, items.items_at, strict=True):
        mapping = source.mapping(item, at)
        if mapping is None:
            continue
        step = _step(source, mapping, at)
        if step is not None:
            _remember(source, step, mapping, seen)
            out.append(step)
    return tuple(out)


def _remember(source: Source, step: Step, mapping: Map, seen: dict[str, bool]) -> None:
    for inner, place_of in zip(step.parallel or (), mapping.get("parallel") or (), strict=False):
        if inner.id and isinstance(place_of, Map):
            _identify(source, inner, place_of, seen, True)
    _identify(source, step, mapping, seen, bool(step.background))
    for key, named in (("wait", step.wait), ("cancel", step.cancel)):
        for index, name in enumerate(named or ()):
            value = mapping[key]
            at = value.items_at[index] if type(value) is Seq else mapping.values_at[key]
            if step.id and name.lower() == step.id.lower():
                source.problem(at, f"{key!r} names {name[:100]!r}, which is this step itself")
            elif name and name.lower() not in seen:
                source.problem(at, f"{key!r} names {name[:100]!r}, which is no step before this one")
            elif name and not seen[name.lower()]:
                source.warn(at, f"{key!r} names {name[:100]!r}, which does not run in the background")


def _identify(source: Source, step: Step, mapping: Map, seen: dict[str, bool], background: bool) -> None:
    if not step.id:
        return
    folded = step.id.lower()
    if folded in seen:
        source.problem(
            mapping.values_at["id"], f"The id {step.id!r} may not be used more than once within the same job"
        )
    else:
        seen[folded] = background


def _step(source: Source, mapping: Map, at: Any) -> Step | None:
    for kind, table in _KINDS.items():
        if kind in mapping:
            fields = source.fields(mapping, table, f"key of a `{kind}` step")
            break
    else:
        _no_kind(source, mapping, at)
        return None
    if kind in ("run", "uses") and not fields.get(kind):
        return None
    if "with_" in fields and INSERT in fields["with_"]:
        source.cannot(at, "`with` given by an expression is not supported: write its inputs")
    return Step(**fields, place=place(at))


def _no_kind(source: Source, mapping: Map, at: Any) -> None:
    """Say what is missing, by the keys that are there."""
    unknown = [key for key in mapping if key not in _ANY_STEP]
    for key in unknown:
        source.unexpected(mapping.keys_at[key], key, _ANY_STEP, "key of a step")
    if not unknown:
        if "with" in mapping:
            source.missing(at, "uses", "a step with `with`")
        elif "shell" in mapping or "working-directory" in mapping:
            source.missing(at, "run", "a step with `shell` or `working-directory`")
        else:
            source.problem(at, "A step needs `run` or `uses`")


def _uses(source: Source, value: Any, at: Any, scope: Scope) -> str:
    name = words(source, value, at, NOWHERE)
    if not name or "${{" in name or name.startswith(("./", ".\\", "docker://", "$/")):
        return name
    if not _REPOSITORY(name):
        source.problem(
            at, f"Expected {{org}}/{{repo}}[/path]@ref, ./path or docker://image, found {name[:200]!r}"
        )
    return name


def _all(source: Source, value: Any, at: Any, scope: Scope) -> bool:
    if value is not None and value is not True:
        source.problem(at, "`wait-all` takes no value")
    return True


def _one(source: Source, value: Any, at: Any, scope: Scope) -> tuple[str, ...]:
    return (words(source, value, at, NOWHERE),)


def _parallel(source: Source, value: Any, at: Any, scope: Scope) -> tuple[Step, ...]:
    found = source.sequence(value, at)
    if found is None:
        return ()
    if not found:
        source.problem(at, "`parallel` needs at least one step")
    out = []
    for item, where in zip(found, found.items_at, strict=True):
        mapping = source.mapping(item, where)
        if mapping is None:
            continue
        if not ("run" in mapping or "uses" in mapping) and any(kind in mapping for kind in _KINDS):
            source.problem(where, "a step inside `parallel` must `run` or `uses`")
            continue
        step = _step(source, mapping, where)
        if step is not None:
            out.append(step)
    return tuple(out)


_COMMON: Table = {
    "name": Field("name", text, STEP),
    "id": Field("id", identifier, NOWHERE),
    "if": Field("condition", condition, STEP_IF),
    "timeout-minutes": Field("timeout_minutes", number, STEP),
    "continue-on-error": Field("continue_on_error", boolean, STEP),
    "env": Field("env", text_map, STEP),
    "background": Field("background", boolean, NOWHERE),
}
_CONTROL: Table = {key: _COMMON[key] for key in ("name", "id", "continue-on-error")}
"""Control steps always run, so they take no `if`."""
_KINDS: dict[str, Table] = {
    "run": {
        **_COMMON,
        "run": Field("run", text, STEP),
        "working-directory": Field("working_directory", text, STEP),
        "shell": Field("shell", words, NOWHERE),
    },
    "uses": {
        **_COMMON,
        "uses": Field("uses", _uses, NOWHERE),
        "with": Field("with_", no_expression_map, STEP),
    },
    "wait": {**_CONTROL, "wait": Field("wait", text_list, NOWHERE)},
    "wait-all": {**_CONTROL, "wait-all": Field("wait_all", _all, NOWHERE)},
    "cancel": {**_CONTROL, "cancel": Field("cancel", _one, NOWHERE)},
    "parallel": {**_CONTROL, "if": _COMMON["if"], "parallel": Field("parallel", _parallel, NOWHERE)},
}
_ANY_STEP = frozenset(key for table in _KINDS.values() for key in table)
