# ruff: noqa: E501 - flow-style workflows are read best on one line
"""Where a job runs: labels, groups, containers, services, snapshots."""

from __future__ import annotations

import pytest

from runnerd.workflow import load


def runs_on(value, steps="[{run: x}]"):
    return load(f"on: push\njobs: {{a: {{runs-on: {value}, steps: {steps}}}}}", path="w").jobs["a"].runs_on


def test_every_form_of_runs_on_is_read():
    """A label, a list, a group with labels, an expression."""
    assert runs_on("ubuntu-latest") == "ubuntu-latest"
    assert runs_on("[self-hosted, 5]") == ["self-hosted", "5"]
    assert runs_on("{group: org/g, labels: [a]}") == {"group": "org/g", "labels": ["a"]}
    assert runs_on("'${{ matrix.os }}'") == "${{ matrix.os }}"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("''", "Unexpected value ''"),
        ("[]", "at least one label"),
        ("{}", "a label or a group"),
        ("{label: x}", "did you mean 'labels'"),
        ("{group: a/b}", "prefix"),
        ("{group: org/a/b}", "prefix"),
        ("{group: ent/}", "nothing follows"),
        ("'${{ secrets.x }}'", "'secrets' cannot be used here"),
    ],
)
def test_invalid_runs_on_is_refused(problems, value, words):
    """Each mistake in runs-on says what is wrong."""
    assert words in problems(f"on: push\njobs: {{a: {{runs-on: {value}, steps: [{{run: x}}]}}}}")[0][2]


def test_containers_and_services_are_read(job):
    """All keys of a container come out as plain data."""
    found = job(
        "container: {image: node, env: {A: 1}, ports: [80], volumes: ['a:/b'], options: --cpus 1, "
        "credentials: {username: '${{ env.U }}', password: '${{ secrets.P }}'}}, services: {db: pg, r: {image: redis}}"
    )
    assert found.container["ports"] == ["80"]
    assert found.services == {"db": "pg", "r": {"image": "redis"}}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("container: {options: x}", "Container image cannot be empty"),
        ("container: {image: }", "Unexpected value ''"),
        ("container: {image: x, credentials: {bad: y}}", "'bad'"),
        ("services: {a: {options: x}}", "Container image cannot be empty"),
        ("services: {a: {imag: x}}", "did you mean 'image'"),
        ("services: [a]", "A sequence was not expected"),
        ("container: {image: x, ports: 80}", "a sequence was expected"),
        ("snapshot: {version: 1}", "needs 'image-name'"),
        ("snapshot: ''", "Unexpected value ''"),
    ],
)
def test_wrong_containers_are_named(job_problems, keys, words):
    """Each mistake says what is wrong."""
    assert words in job_problems(keys)[0]


def test_a_snapshot_is_a_warning():
    """No image is kept, and the run says so without failing for it."""
    found = load(
        "on: push\njobs: {a: {runs-on: x, snapshot: {image-name: i, if: always()}, steps: [{run: y}]}}",
        path="w",
    )
    assert [each.severity for each in found.unsupported] == ["warning"]
