"""Behaviour of runnerd.forge.permissions."""

from __future__ import annotations

import pytest

from runnerd.forge import permissions
from runnerd.forge.permissions import CHECKS, OF_APP, OF_TOKEN, cost_of, missing, of_workflow


def test_what_is_missing_is_listed_with_its_cost():
    """Write covers read, less does not cover more, and every need says what its lack costs."""
    granted = {"contents": "write", "checks": "read", "statuses": "write", "pull_requests": "write"}
    assert [need.title for need in missing(OF_APP, granted)] == ["Checks: write", "Administration: read"]
    assert all(need.cost and cost_of(need.title) == need.cost for need in (*OF_APP, *OF_TOKEN))
    assert cost_of("Coffee: write") == ""
    assert CHECKS.met({"checks": "admin"})


@pytest.mark.parametrize(
    ("wanted", "granted", "cut"),
    [
        ({"contents": "read"}, {"contents": "read", "metadata": "read"}, []),
        ({"pull-requests": "write"}, {"pull_requests": "read", "metadata": "read"}, ["pull_requests: write"]),
        ({"issues": "write"}, {"metadata": "read"}, ["issues: write"]),
        ({"contents": "none", "id-token": "write", "models": "read"}, {"metadata": "read"}, []),
        ({"contents": "everything"}, {"metadata": "read"}, []),
        ({}, {"metadata": "read"}, []),
    ],
)
def test_a_workflow_gets_at_most_what_is_ours(wanted, granted, cut):
    """The API's names, never more than asked or had, and never the empty set that GitHub reads as all."""
    ours = {"contents": "write", "pull_requests": "read"}
    assert of_workflow(wanted, ours) == (granted, cut)


def test_events_that_only_apps_get_are_among_those_subscribed_to():
    """What a plain webhook leaves out is named as such."""
    assert set(permissions.EVENTS) > permissions.ONLY_APPS
