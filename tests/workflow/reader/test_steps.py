"""Steps: what each kind takes, ids, actions, and the control words of background steps."""

from __future__ import annotations

import pytest

from runnerd.workflow import load


def test_steps_are_read(job):
    """All keys of both kinds come out, with the place of each step."""
    run, uses = job(
        "",
        steps="[{id: a, name: N, if: always(), run: x, env: {A: b}, shell: sh, working-directory: d, "
        "timeout-minutes: 5, continue-on-error: true}, {uses: actions/checkout@v4, with: {fetch-depth: 0}}]",
    ).steps
    assert (run.id, run.name, run.condition, run.run, run.env) == ("a", "N", "always()", "x", {"A": "b"})
    assert (run.shell, run.working_directory, run.timeout_minutes, run.continue_on_error) == (
        "sh",
        "d",
        5,
        True,
    )
    assert (uses.uses, uses.with_) == ("actions/checkout@v4", {"fetch-depth": "0"})
    assert run.place.line == 3


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("[{runn: x}]", "did you mean 'run'"),
        ("[{name: x}]", "needs `run` or `uses`"),
        ("[{shell: x}]", "needs 'run'"),
        ("[{with: {a: b}}]", "needs 'uses'"),
        ("[{run: x, uses: a/b@v1}]", "key of a `run` step 'uses'"),
        ("[{run: x, with: {a: b}}]", "'with'"),
        ("[{uses: a/b@v1, shell: x}]", "'shell'"),
        ("[{uses: badrepo@v1}]", "Expected {org}/{repo}"),
        ("[{uses: a/b}]", "Expected {org}/{repo}"),
        ("[{uses: ''}]", "Unexpected value ''"),
        ("[{uses: '${{ github.x }}'}]", "not allowed here"),
        ("[{id: a, run: x}, {id: A, run: y}]", "more than once"),
        ("[{id: a.b, run: x}]", "invalid"),
        ("[x]", "a mapping was expected"),
        ("[{run: x, shell: '${{ github.x }}'}]", "not allowed here"),
        ("[{wait: nobody}]", "is no step before"),
        ("[{id: a, wait: a}]", "is this step itself"),
        ("[{id: a, run: x}, {cancel: [a]}]", "A sequence was not expected"),
        ("[{id: a, run: x}, {wait: a, if: always()}]", "key of a `wait` step 'if'"),
        ("[{wait-all: yes}]", "takes no value"),
        ("[{parallel: []}]", "at least one step"),
        ("[{parallel: [{wait-all: }]}]", "must `run` or `uses`"),
        ("[{run: x, background: maybe}]", "true or false"),
    ],
)
def test_wrong_steps_are_named(job_problems, steps, words):
    """Each mistake says what is wrong."""
    assert (
        words
        in job_problems(
            "",
            steps=steps,
        )[0]
    )


@pytest.mark.parametrize(
    "uses", ["docker://alpine:3.8", "./.github/actions/x", "actions/aws/ec2@main", "$/x", "a/b@c/d"]
)
def test_every_form_of_action_is_taken(job_problems, uses):
    """Images, local paths, repositories with folders."""
    assert job_problems("", steps=f"[{{uses: {uses}}}]") == []


def test_background_steps_are_read():
    """Background, wait, wait-all, cancel and parallel come out as data."""
    found = load(
        "on: push\njobs: {a: {runs-on: x, steps: [{id: s, run: x, background: true}, {wait: s}, {cancel: s}, "
        "{wait-all: }, {parallel: [{id: p, run: a}, {run: b}]}, {wait: p}]}}",
        path="w",
    )
    background, wait, cancel, wait_all, parallel, _ = found.jobs["a"].steps
    assert background.background is True
    assert (wait.wait, cancel.cancel, wait_all.wait_all) == (("s",), ("s",), True)
    assert [each.run for each in parallel.parallel] == ["a", "b"]
    assert found.unsupported == ()


def test_waiting_for_a_step_that_is_not_in_the_background_is_warned_about():
    """GitHub takes it, and it waits for nothing."""
    found = load(
        "on: push\njobs: {a: {runs-on: x, steps: [{id: s, run: x}, {wait: [s]}]}}",
        path="w",
    )
    assert "does not run in the background" in found.warnings[0].message
