"""Whether an event starts a workflow, and the sentence that says why or why not.

Rules are GitHub's: branch and tag filters, paths, activity types, skip markers in commit messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from runnerd.model import Event
from runnerd.workflow.events import EVENTS
from runnerd.workflow.model import Input, Match, Trigger, Workflow
from runnerd.workflow.patterns import match_patterns

MAX_FILES = 300
"""Only the first so many changed files are compared with path filters."""

_SKIP_WORDS = ("[skip ci]", "[ci skip]", "[no ci]", "[skip actions]", "[actions skip]")
_SKIP_TRAILER = re.compile(r"\n[ \t]*\n(?:[\w-]+:[^\n]*\n)*skip-checks:[ \t]*true\s*\Z", re.IGNORECASE)
"""The last of the trailers, which a blank line keeps apart from the message."""
_ZERO = re.compile(r"0{40,64}").fullmatch
_PULL_REQUESTS = ("pull_request", "pull_request_target")


def matches(
    event: str | Event,
    payload: Mapping[str, Any] | None,
    workflow: Workflow,
    changed_files: Sequence[str] | None,
) -> Match:
    """Whether `event` starts `workflow`.

    `event` is the event's name, or an `Event` (whose own payload is used where `payload` is None).
    `changed_files` are paths; None means that the difference is not known (or has more than 1000 commits),
    in which case path filters let everything pass. Never raises for anything in the payload.
    """
    if isinstance(event, Event):
        name, payload = event.name, event.payload if payload is None else payload
        only = event.workflow
    else:
        name, only = event, None
    payload = payload if isinstance(payload, Mapping) else {}
    if name == "schedule":
        only = _text(payload, "workflow") or None
    trigger = next((each for each in workflow.triggers if each.event == name), None)
    if trigger is None:
        listed = ", ".join(each.event for each in workflow.triggers)
        return Match(matched=False, reason=f"{name} is not among its events ({listed})")
    if only is not None and not _same_file(only, workflow.path):
        return Match(
            matched=False, reason=f"the event is for {only}, not for {workflow.path}", trigger=trigger
        )
    reason = _refusal(name, payload, event if isinstance(event, Event) else None, trigger, changed_files)
    if reason:
        return Match(matched=False, reason=reason, trigger=trigger)
    return Match(matched=True, reason=_welcome(name, trigger), trigger=trigger)


def _same_file(wanted: str, path: str) -> bool:
    return path == wanted or path.rpartition("/")[2] == wanted


def _refusal(
    name: str,
    payload: Mapping[str, Any],
    event: Event | None,
    trigger: Trigger,
    changed_files: Sequence[str] | None,
) -> str:
    """Why not, or the empty string."""
    return (
        _skipped(name, payload, event)
        or _wrong_type(name, payload, event, trigger)
        or _wrong_ref(name, payload, event, trigger)
        or _wrong_paths(name, payload, event, trigger, changed_files)
        or _wrong_source(name, payload, trigger)
    )


def skip_marker(message: str) -> str | None:
    """The marker in a commit message that asks for no run, or None."""
    folded = message.lower()
    for word in _SKIP_WORDS:
        if word in folded:
            return word
    trailer = _SKIP_TRAILER.search(message[-500:].replace("\r\n", "\n"))
    return "skip-checks: true" if trailer else None


def _skipped(name: str, payload: Mapping[str, Any], event: Event | None) -> str:
    if name != "push" and name != "pull_request":
        return ""
    message = (
        event.message if event is not None and event.message else _text(payload, "head_commit", "message")
    )
    marker = skip_marker(message) if message else None
    return f"the commit message says {marker}" if marker else ""


def _wrong_type(name: str, payload: Mapping[str, Any], event: Event | None, trigger: Trigger) -> str:
    kind = EVENTS[name]
    if name == "repository_dispatch":
        if trigger.types is None:
            return ""
        action = _text(payload, "action") or (event.action if event is not None else None) or ""
        return "" if action in trigger.types else f"type {action!r} is not among {_list(trigger.types)}"
    if not kind.types:
        return ""
    action = _text(payload, "action") or (event.action if event is not None else None) or ""
    if trigger.types is not None:
        return "" if action in trigger.types else f"activity {action!r} is not among {_list(trigger.types)}"
    if kind.default is None or action in kind.default:
        return ""
    return f"activity {action!r} is not among {_list(sorted(kind.default))}, the default of `types`"


def _wrong_ref(name: str, payload: Mapping[str, Any], event: Event | None, trigger: Trigger) -> str:
    if name == "push":
        return _wrong_push(
            _text(payload, "ref") or (event.ref if event is not None else ""), payload, trigger
        )
    if trigger.branches is None and trigger.branches_ignore is None:
        return ""
    if name in _PULL_REQUESTS:
        branch = _text(payload, "pull_request", "base", "ref") or (
            event.base_ref if event is not None else ""
        )
        what = "base branch"
    elif name == "merge_group":
        branch, what = _text(payload, "merge_group", "base_ref"), "base branch"
    else:
        branch, what = _text(payload, "workflow_run", "head_branch"), "branch"
    return _filtered(
        what, branch.removeprefix("refs/heads/"), trigger.branches, trigger.branches_ignore, "branches"
    )


def _wrong_push(ref: str, payload: Mapping[str, Any], trigger: Trigger) -> str:
    if payload.get("deleted") is True or _ZERO(_text(payload, "after")):
        return f"{ref or 'the ref'} was deleted"
    branch_filter = trigger.branches is not None or trigger.branches_ignore is not None
    tag_filter = trigger.tags is not None or trigger.tags_ignore is not None
    if ref.startswith("refs/tags/"):
        if tag_filter:
            return _filtered("tag", ref[len("refs/tags/") :], trigger.tags, trigger.tags_ignore, "tags")
        return "a tag was pushed and only branches are listed" if branch_filter else ""
    if branch_filter:
        branch = ref.removeprefix("refs/heads/")
        return _filtered("branch", branch, trigger.branches, trigger.branches_ignore, "branches")
    return "a branch was pushed and only tags are listed" if tag_filter else ""


def _filtered(
    what: str, value: str, keep: Sequence[str] | None, ignore: Sequence[str] | None, key: str
) -> str:
    if keep is not None and not match_patterns(keep, value):
        return f"{what} {value!r} does not match `{key}` {_list(keep)}"
    if ignore is not None and match_patterns(ignore, value):
        return f"{what} {value!r} matches `{key}-ignore` {_list(ignore)}"
    return ""


def _wrong_paths(
    name: str,
    payload: Mapping[str, Any],
    event: Event | None,
    trigger: Trigger,
    changed_files: Sequence[str] | None,
) -> str:
    if trigger.paths is None and trigger.paths_ignore is None:
        return ""
    ref = _text(payload, "ref") or (event.ref if event is not None else "")
    if changed_files is None or (name == "push" and ref.startswith("refs/tags/")):
        return ""
    if not changed_files:
        return "no file changed, and there are path filters"
    files = changed_files[:MAX_FILES]
    more = (
        f" (of {len(changed_files)}, the first {MAX_FILES} count)" if len(changed_files) > MAX_FILES else ""
    )
    if trigger.paths is not None:
        if not any(match_patterns(trigger.paths, file) for file in files):
            return f"no changed file{more} matches `paths` {_list(trigger.paths)}"
    elif trigger.paths_ignore is not None and all(
        match_patterns(trigger.paths_ignore, file) for file in files
    ):
        return f"every changed file{more} matches `paths-ignore` {_list(trigger.paths_ignore)}"
    return ""


def _wrong_source(name: str, payload: Mapping[str, Any], trigger: Trigger) -> str:
    """Filters of single events: the workflow that ran, the schedule that is due, an image, a deployment."""
    if name == "schedule":
        return _wrong_schedule(payload, trigger)
    if name == "workflow_run" and trigger.workflows is not None:
        ran = _text(payload, "workflow", "name") or _text(payload, "workflow_run", "name")
        return (
            _filtered("workflow", ran, trigger.workflows, None, "workflows")
            if ran not in trigger.workflows
            else ""
        )
    if name == "image_version":
        image = _text(payload, "image_version", "name") or _text(payload, "image", "name")
        version = _text(payload, "image_version", "version")
        return _filtered("image", image, trigger.names, None, "names") or _filtered(
            "version", version, trigger.versions, None, "versions"
        )
    if name == "deployment_status" and _text(payload, "deployment_status", "state") == "inactive":
        return "a deployment status of inactive starts nothing"
    return ""


def _wrong_schedule(payload: Mapping[str, Any], trigger: Trigger) -> str:
    """A start is for one schedule, which the file at today's tip must still have."""
    cron, zone = _text(payload, "schedule"), _text(payload, "timezone") or "UTC"
    if (cron, zone) in trigger.schedules:
        return ""
    listed = [each if where == "UTC" else f"{each} in {where}" for each, where in trigger.schedules]
    return f"schedule {cron!r} in {zone} is not among {_list(listed)}"


def _welcome(name: str, trigger: Trigger) -> str:
    filters = [
        f"`{key.replace('_', '-')}`"
        for key in (
            "types",
            "branches",
            "branches_ignore",
            "tags",
            "tags_ignore",
            "paths",
            "paths_ignore",
            "workflows",
        )
        if getattr(trigger, key) is not None
    ]
    return f"on {name}" + (f", which passes {', '.join(filters)}" if filters else "")


def _text(payload: Mapping[str, Any], *path: str) -> str:
    """A string somewhere in an untrusted payload; empty where there is none."""
    found: Any = payload
    for key in path:
        if not isinstance(found, Mapping):
            return ""
        found = found.get(key)
    return found if isinstance(found, str) else ""


def _list(words: Sequence[str]) -> str:
    shown = ", ".join(words[:20])
    return f"[{shown[:300]}{', …' if len(words) > 20 or len(shown) > 300 else ''}]"


def dispatch_inputs(declared: Mapping[str, Input], given: Mapping[str, Any]) -> dict[str, Any]:
    """The `inputs` context of a manual start: every declared input, typed, with its default.

    Raises ValueError with every problem, one a line, for inputs that GitHub would refuse.
    """
    folded = {name.lower(): name for name in declared}
    values: dict[str, Any] = {}
    problems = [f"input {name[:100]!r} is not declared" for name in given if name.lower() not in folded]
    by_name = {folded[name.lower()]: value for name, value in given.items() if name.lower() in folded}
    for name, entry in declared.items():
        value = by_name.get(name)
        if value is None or value == "":
            if entry.required and entry.default is None:
                problems.append(f"input {name!r} is required")
            value = entry.default
        try:
            values[name] = _typed(entry, value)
        except ValueError as wrong:
            problems.append(f"input {name!r} {wrong}")
    if problems:
        raise ValueError("\n".join(problems))
    return values


def _typed(entry: Input, value: Any) -> Any:
    if entry.type == "boolean":
        if value is None or value == "":
            return False
        if isinstance(value, bool) or value in ("true", "false"):
            return value is True or value == "true"
        raise ValueError(f"must be true or false, not {str(value)[:100]!r}")
    if entry.type == "number":
        return _numeric(value)
    from runnerd.workflow.expressions.values import to_text

    text = to_text(value) if value is None or isinstance(value, str | bool | int | float) else str(value)
    if entry.type == "choice":
        if value is None and entry.options:
            return entry.options[0]
        if text not in entry.options:
            raise ValueError(f"must be one of {_list(entry.options)}, not {text[:100]!r}")
    return text


def _numeric(value: Any) -> int | float:
    from runnerd.workflow.expressions.values import to_number

    if value is None or value == "":
        return 0
    number = (
        to_number(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    )
    if number is None or number != number:
        raise ValueError(f"must be a number, not {str(value)[:100]!r}")
    return int(number) if number.is_integer() and abs(number) < 1 << 53 else number
