"""Fixtures of the reader's tests: load a text, or get its problems as `(line, column, message)`."""

from __future__ import annotations

import pytest

from runnerd.workflow import WorkflowErrors, load


@pytest.fixture
def problems():
    """The problems of a text, empty if it is valid."""

    def find(text: str, **keys) -> list[tuple[int, int, str]]:
        try:
            load(text, path="w.yml", **keys)
        except WorkflowErrors as errors:
            return [(each.line, each.column, each.message) for each in errors.problems]
        return []

    return find


@pytest.fixture
def job_problems(problems):
    """The problems of a workflow with one job written in flow style."""

    def find(keys: str, steps: str = "[{run: x}]", **more) -> list[str]:
        text = f"on: push\njobs:\n  a: {{runs-on: x, steps: {steps}{', ' + keys if keys else ''}}}\n"
        return [message for _, _, message in problems(text, **more)]

    return find


@pytest.fixture
def job():
    """The one job of a workflow written in flow style."""

    def read(keys: str, steps: str = "[{run: x}]", **more):
        text = f"on: push\njobs:\n  a: {{runs-on: x, steps: {steps}{', ' + keys if keys else ''}}}\n"
        return load(text, path="w.yml", **more).jobs["a"]

    return read
