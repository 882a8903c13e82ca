"""The table of events, against GitHub's own lists."""

from __future__ import annotations

from runnerd.workflow.events import EVENTS


def test_activity_types_are_github_s(reference):
    """Every event of the schema is there with exactly its activity types, or more that the docs name."""
    definitions = reference("workflow-v1.0.json")["definitions"]
    documented = reference("event_refs.json")["events"]
    strict = definitions["on-mapping-strict"]["mapping"]["properties"]
    assert set(strict) <= set(EVENTS)
    for name, definition in strict.items():
        kind = definitions.get(f"{definition}-activity-type", {})
        types = set(kind.get("allowed-values", ()))
        also = documented.get(name, {}).get("activity_types")
        if name != "repository_dispatch" and isinstance(also, list):
            types |= set(also)
        if types and name != "merge_group":
            assert EVENTS[name].types >= types, name


def test_filters_are_github_s(reference):
    """Each event takes exactly the filters of the schema; merge_group has branches beside."""
    definitions = reference("workflow-v1.0.json")["definitions"]
    own = {"inputs", "secrets", "outputs"}
    for name, definition in definitions["on-mapping-strict"]["mapping"]["properties"].items():
        mapping = definitions.get(f"{definition}-mapping", {}).get("mapping", {}).get("properties", {})
        expected = set(mapping) - own
        if name == "merge_group":
            expected |= {"branches", "branches-ignore"}
        if name == "pull_request_comment":
            expected = {"types"}
        assert EVENTS[name].filters == expected, name


def test_only_pull_requests_have_default_types():
    """Every other event starts on any activity."""
    assert [name for name, kind in EVENTS.items() if kind.default] == ["pull_request", "pull_request_target"]
