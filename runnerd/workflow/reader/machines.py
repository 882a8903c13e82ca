"""Reading where a job runs: `runs-on`, `container`, `services`, `snapshot`."""

from __future__ import annotations

from typing import Any

from runnerd.workflow.reader.scalars import INSERT, condition, text, text_list, text_map, word_sequence, words
from runnerd.workflow.reader.scope import CREDENTIALS, JOB, NOWHERE, RUNNER, SNAPSHOT_IF, Scope
from runnerd.workflow.reader.source import Field, Source, Table
from runnerd.workflow.yaml import Map, Seq

_GROUP_PREFIXES = ("org", "organization", "ent", "enterprise")


def runs_on(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    """A label, a list of labels, or a plain dict of `group` and `labels`."""
    if type(value) is Map:
        if not value:
            source.problem(at, "runs-on needs a label or a group")
        return source.fields(value, _RUNS_ON, "key of runs-on")
    if type(value) is Seq:
        if not value:
            source.problem(at, "runs-on needs at least one label")
        return list(text_list(source, value, at, scope))
    return words(source, value, at, scope)


def _group(source: Source, value: Any, at: Any, scope: Scope) -> str:
    name = words(source, value, at, scope)
    prefix, slash, rest = name.partition("/")
    if slash and "${{" not in name:
        if not rest:
            source.problem(at, f"Invalid runs-on group name {name[:100]!r}: nothing follows the '/'")
        elif prefix not in _GROUP_PREFIXES or "/" in rest:
            source.problem(
                at,
                f"Invalid runs-on group name {name[:100]!r}: use the prefix 'organization/' or 'enterprise/'",
            )
    return name


def _labels(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    found = text_list(source, value, at, scope)
    return list(found) if type(value) is Seq else found[0]


_RUNS_ON: Table = {"group": Field("group", _group, JOB), "labels": Field("labels", _labels, JOB)}


def container(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    """An image's name, or a plain dict of the container's keys."""
    if "containers" not in source.features:
        source.cannot(
            at, "a job in a container is not supported yet: remove `container` or run the steps directly"
        )
    return _image(source, value, at, scope, _CONTAINER, "key of container")


def services(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    """A plain dict of service names to images or to plain dicts."""
    if "services" not in source.features:
        source.cannot(at, "service containers are not supported yet: start the service in a step")
    if type(value) is str and "${{" in value:
        source.expressions(value, at, scope)
        return value
    found = source.mapping(value, at)
    if found is None:
        return {}
    return {
        name: _image(source, each, found.values_at[name], scope, _SERVICE, "key of a service")
        for name, each in found.items()
    }


def _image(source: Source, value: Any, at: Any, scope: Scope, table: Table, what: str) -> Any:
    if type(value) is not Map:
        return text(source, value, at, scope)
    found = source.fields(value, table, what)
    if "image" not in value and not any(each not in table for each in value):
        source.problem(at, "Container image cannot be empty: add `image`")
    return found


def _credentials(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    if type(value) is str and "${{" in value:
        source.expressions(value, at, scope)
        return value
    found = source.mapping(value, at)
    return {} if found is None else source.fields(found, _CREDENTIALS, "key of credentials")


def _env(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    found = text_map(source, value, at, scope)
    return {INSERT: found} if isinstance(found, str) else dict(found)


def _list(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    return list(word_sequence(source, value, at, scope))


_CREDENTIALS: Table = {
    "username": Field("username", words, CREDENTIALS),
    "password": Field("password", words, CREDENTIALS),
}
_CONTAINER: Table = {
    "image": Field("image", words, JOB),
    "options": Field("options", text, JOB),
    "env": Field("env", _env, RUNNER),
    "ports": Field("ports", _list, JOB),
    "volumes": Field("volumes", _list, JOB),
    "credentials": Field("credentials", _credentials, CREDENTIALS),
}
_SERVICE: Table = {
    **_CONTAINER,
    "entrypoint": Field("entrypoint", text, JOB),
    "command": Field("command", text, JOB),
}


def snapshot(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    """The name of the image to make, or a plain dict of `image-name`, `if` and `version`."""
    source.cannot(at, "`snapshot` is read and not acted on: no image is kept", "warning")
    if type(value) is not Map:
        return words(source, value, at, scope)
    found = source.fields(value, _SNAPSHOT, "key of snapshot")
    if "image-name" not in value:
        source.missing(at, "image-name", "snapshot")
    return found


_SNAPSHOT: Table = {
    "image-name": Field("image-name", words, JOB),
    "version": Field("version", words, NOWHERE),
    "if": Field("if", condition, SNAPSHOT_IF),
}
