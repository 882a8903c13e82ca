"""Defaults, permissions, concurrency and environment."""

from __future__ import annotations

import pytest

from runnerd.workflow import load
from runnerd.workflow.model import Concurrency, Defaults


def test_settings_are_read(job):
    """Each form of each key comes out as data."""
    assert job("defaults: {run: {shell: bash, working-directory: d}}").defaults == Defaults(
        shell="bash", working_directory="d"
    )
    assert job("permissions: read-all").permissions == "read-all"
    assert job("permissions: {}").permissions == {}
    assert job("permissions: {contents: read, id-token: write}").permissions == {
        "contents": "read",
        "id-token": "write",
    }
    assert job("concurrency: g").concurrency == Concurrency(group="g")
    assert job("concurrency: {group: g, cancel-in-progress: true, queue: single}").concurrency == Concurrency(
        group="g", cancel_in_progress=True, queue="single"
    )
    assert job("environment: {name: e, url: u, deployment: false}").environment == {
        "name": "e",
        "url": "u",
        "deployment": False,
    }


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("permissions: {contents: admin}", "'admin'"),
        ("permissions: {content: read}", "did you mean 'contents'"),
        ("permissions: {id-token: read}", "'read'"),
        ("permissions: all", "value 'all'"),
        ("permissions: [a]", "A sequence was not expected"),
        ("concurrency: {cancel-in-progress: true}", "needs 'group'"),
        ("concurrency: {group: g, queue: lots}", "'lots'"),
        ("concurrency: {group: g, queue: max, cancel-in-progress: true}", "cannot both"),
        ("concurrency: ''", "Unexpected value ''"),
        ("environment: {url: u}", "needs 'name'"),
        ("defaults: {shell: bash}", "'shell'"),
        ("defaults: {run: {shell: ''}}", "Unexpected value ''"),
    ],
)
def test_wrong_settings_are_named(job_problems, keys, words):
    """Each mistake says what is wrong."""
    assert words in job_problems(keys)[0]


def test_an_environment_is_a_warning_and_not_more():
    """Protection is not applied, and the run says so without failing for it."""
    found = load("on: push\njobs: {a: {runs-on: x, environment: e, steps: [{run: y}]}}", path="w")
    assert [each.severity for each in found.unsupported] == ["warning"]


def test_concurrency_is_kept():
    """A file with concurrency groups asks for nothing that cannot be done."""
    found = load("on: push\nconcurrency: one\njobs: {a: {runs-on: x, steps: [{run: y}]}}", path="w")
    assert found.unsupported == ()


def test_expressions_in_workflow_defaults_are_refused(problems):
    """Only a job's defaults may use contexts."""
    text = "on: push\ndefaults: {run: {shell: '${{ github.x }}'}}\njobs: {a: {runs-on: x, steps: [{run: y}]}}"
    assert "not allowed here" in problems(text)[0][2]
