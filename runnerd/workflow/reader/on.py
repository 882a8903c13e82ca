"""Reading `on`: every spelling of the events, with their filters, inputs and outputs."""

from __future__ import annotations

from typing import Any

from runnerd.workflow.events import EVENTS
from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.model import Input, Scalar, Trigger
from runnerd.workflow.patterns import check_pattern
from runnerd.workflow.reader.cron import cron_problem, zone_problem
from runnerd.workflow.reader.scalars import boolean, free, one_of, text, text_list, word_sequence, words
from runnerd.workflow.reader.scope import CALL_OUTPUT, NOWHERE, RUN, Scope
from runnerd.workflow.reader.source import Field, Source, Table, place
from runnerd.workflow.yaml import Map, Seq


def triggers(source: Source, value: Any, at: Any, scope: Scope) -> tuple[Trigger, ...]:
    """One event, a sequence of events, or a mapping of events to their filters."""
    if type(value) is Map:
        found = [
            _configured(source, name, config, value.keys_at[name], value.values_at[name])
            for name, config in value.items()
            if _known(source, name, value.keys_at[name])
        ]
        if not value:
            source.problem(at, "`on` names no event")
        return tuple(found)
    names: list[tuple[str, Any]] = []
    if type(value) is Seq:
        for item, where in zip(value, value.items_at, strict=True):
            names.append((text(source, item, where, NOWHERE), where))
        if not names:
            source.problem(at, "`on` names no event")
    else:
        names.append((text(source, value, at, NOWHERE), at))
    out: dict[str, Trigger] = {}
    for name, where in names:
        if _known(source, name, where):
            if name == "schedule":
                source.missing(where, "cron", "schedule")
            out.setdefault(name, Trigger(event=name, place=place(where)))
    return tuple(out.values())


def _known(source: Source, name: str, at: Any) -> bool:
    if name in EVENTS:
        return True
    source.unexpected(at, name, EVENTS, "event")
    return False


def _configured(source: Source, name: str, config: Any, key_at: Any, at: Any) -> Trigger:
    if name == "schedule":
        return Trigger(event=name, schedules=_schedules(source, config, at), place=place(key_at))
    if config is None:
        return Trigger(event=name, place=place(key_at))
    mapping = source.mapping(config, at)
    if mapping is None:
        return Trigger(event=name, place=place(key_at))
    if name == "workflow_dispatch":
        mapping = _known_only(source, mapping)
    fields = source.fields(mapping, _TABLES.get(name, {}), f"key of {name}")
    _exclusive(source, mapping)
    return Trigger(event=name, **fields, place=place(key_at))


def _known_only(source: Source, mapping: Map) -> Map:
    """GitHub's server ignores unknown keys right under `workflow_dispatch`; say so and do the same."""
    for key in mapping:
        if key not in _TABLES["workflow_dispatch"]:
            source.warn(mapping.keys_at[key], f"unknown key {key[:100]!r} of workflow_dispatch is ignored")
    known = Map((key, value) for key, value in mapping.items() if key in _TABLES["workflow_dispatch"])
    known.keys_at, known.values_at = mapping.keys_at, mapping.values_at
    return known


def _exclusive(source: Source, mapping: Map) -> None:
    for key in ("branches", "tags", "paths"):
        if key in mapping and f"{key}-ignore" in mapping:
            source.problem(
                mapping.keys_at[f"{key}-ignore"],
                f"{key!r} and '{key}-ignore' cannot both be given for one event; use '!' patterns in {key!r}",
            )
        patterns = mapping.get(key)
        if type(patterns) is Seq and patterns and all(str(each).startswith("!") for each in patterns):
            source.warn(mapping.keys_at[key], f"{key!r} has only '!' patterns and so never matches")


def _patterns(source: Source, value: Any, at: Any, scope: Scope) -> tuple[str, ...]:
    found = text_list(source, value, at, NOWHERE)
    for index, pattern in enumerate(found):
        try:
            if pattern:
                check_pattern(pattern)
        except ValueError as wrong:
            where = value.items_at[index] if type(value) is Seq else at
            source.problem(where, f"the pattern {pattern[:100]!r} is invalid: {wrong}")
    return found


def _types(event: str) -> Any:
    valid = EVENTS[event].types

    def read(source: Source, value: Any, at: Any, scope: Scope) -> tuple[str, ...]:
        found = text_list(source, value, at, NOWHERE)
        for index, name in enumerate(found):
            if valid and name and name not in valid:
                where = value.items_at[index] if type(value) is Seq else at
                source.unexpected(where, name, valid, f"activity type of {event}")
        return found

    return read


def _schedules(source: Source, value: Any, at: Any) -> tuple[tuple[str, str], ...]:
    items = source.sequence(value, at)
    out = []
    for item, where in zip(items or (), items.items_at if items is not None else (), strict=True):
        mapping = source.mapping(item, where)
        if mapping is None:
            continue
        fields = source.fields(mapping, _SCHEDULE, "key of a schedule")
        if "cron" not in mapping:
            source.missing(where, "cron", "a schedule")
        else:
            out.append((fields["cron"], fields.get("timezone", "UTC")))
    return tuple(out)


def _cron(source: Source, value: Any, at: Any, scope: Scope) -> str:
    return _checked(source, words(source, value, at, NOWHERE), at, cron_problem)


def _zone(source: Source, value: Any, at: Any, scope: Scope) -> str:
    return _checked(source, words(source, value, at, NOWHERE), at, zone_problem)


def _checked(source: Source, found: str, at: Any, check: Any) -> str:
    problem = check(found) if found else None
    if problem:
        source.problem(at, problem)
    return found


def _default(source: Source, value: Any, at: Any, scope: Scope) -> Scalar:
    return value if isinstance(value, bool | int | float) else text(source, value, at, scope)


def _inputs(table: Table, what: str, typed: bool) -> Any:
    def read(source: Source, value: Any, at: Any, scope: Scope) -> dict[str, Input]:
        mapping = source.mapping(value, at) if value is not None else None
        out: dict[str, Input] = {}
        for name, config in (mapping or {}).items():
            assert mapping is not None
            if not name or "${{" in name:
                source.unexpected(mapping.keys_at[name], name, (), "name")
            out[name] = _input(source, config, mapping.values_at[name], table, what, typed)
        return out

    return read


def _input(source: Source, config: Any, at: Any, table: Table, what: str, typed: bool) -> Input:
    if config is None and not typed:
        return Input()
    mapping = source.mapping(config, at)
    if mapping is None:
        return Input()
    fields = source.fields(mapping, table, f"key of {what}")
    if typed and "type" not in mapping:
        source.missing(at, "type", what)
    found = Input(**{key: value for key, value in fields.items() if value is not None})
    if found.type == "choice" and not found.options:
        source.missing(at, "options", "an input of type choice")
    if "default" in mapping:
        _check_default(source, found, mapping.values_at["default"])
    return found


def _check_default(source: Source, found: Input, at: Any) -> None:
    default = found.default
    if isinstance(default, str) and "${{" in default:
        return
    wrong = (
        (found.type == "boolean" and not isinstance(default, bool) and default not in ("true", "false"))
        or (found.type == "number" and (isinstance(default, bool | str) or default is None))
        or (found.type == "choice" and bool(found.options) and to_text(default) not in found.options)
    )
    if wrong:
        source.problem(
            at, f"the default {to_text(default)[:100]!r} does not fit an input of type {found.type}"
        )


def _secrets(source: Source, value: Any, at: Any, scope: Scope) -> dict[str, bool]:
    mapping = source.mapping(value, at) if value is not None else None
    out = {}
    for name, config in (mapping or {}).items():
        assert mapping is not None
        inner = source.mapping(config, mapping.values_at[name]) if config is not None else None
        fields = source.fields(inner, _SECRET, "key of a secret") if inner is not None else {}
        out[name] = fields.get("required") is True
    return out


def _outputs(source: Source, value: Any, at: Any, scope: Scope) -> dict[str, Scalar]:
    mapping = source.mapping(value, at) if value is not None else None
    out: dict[str, Scalar] = {}
    for name, config in (mapping or {}).items():
        assert mapping is not None
        inner = source.mapping(config, mapping.values_at[name])
        if inner is None:
            continue
        fields = source.fields(inner, _OUTPUT, "key of an output")
        if "value" not in inner:
            source.missing(mapping.values_at[name], "value", "an output")
        out[name] = fields.get("value")
    return out


_SCHEDULE: Table = {"cron": Field("cron", _cron, NOWHERE), "timezone": Field("timezone", _zone, NOWHERE)}
_INPUT: Table = {
    "description": Field("description", free, NOWHERE),
    "required": Field("required", boolean, NOWHERE),
}
_CALL_INPUT: Table = {
    **_INPUT,
    "type": Field("type", one_of("string", "boolean", "number"), NOWHERE),
    "default": Field("default", _default, RUN),
}
_DISPATCH_INPUT: Table = {
    **_INPUT,
    "type": Field("type", one_of("string", "boolean", "number", "choice", "environment"), NOWHERE),
    "default": Field("default", _default, NOWHERE),
    "options": Field("options", word_sequence, NOWHERE),
}
_SECRET: Table = {
    "description": Field("description", free, NOWHERE),
    "required": Field("required", boolean, NOWHERE),
}
_OUTPUT: Table = {
    "description": Field("description", free, NOWHERE),
    "value": Field("value", text, CALL_OUTPUT),
}


def _table(event: str) -> Table:
    readers = {"workflows": text_list, "names": text_list, "versions": text_list, "types": _types(event)}
    return {
        key: Field(key.replace("-", "_"), readers.get(key, _patterns), NOWHERE)
        for key in EVENTS[event].filters
    }


_TABLES: dict[str, Table] = {
    **{event: _table(event) for event in EVENTS},
    "workflow_dispatch": {
        "inputs": Field("inputs", _inputs(_DISPATCH_INPUT, "an input", False), NOWHERE),
    },
    "workflow_call": {
        "inputs": Field("inputs", _inputs(_CALL_INPUT, "an input", True), NOWHERE),
        "secrets": Field("secrets", _secrets, NOWHERE),
        "outputs": Field("outputs", _outputs, NOWHERE),
    },
}
