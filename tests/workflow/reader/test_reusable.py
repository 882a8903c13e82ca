"""Calls of reusable workflows: finding, inputs, secrets, permissions, depth."""

from __future__ import annotations

import itertools

import pytest

from runnerd.workflow import Limits, WorkflowErrors, load

LOCAL = "./.github/workflows/b.yml"
CALLEE = "on: {workflow_call: %s}\njobs: {x: {runs-on: y, steps: [{run: z}]%s}}\n"


def caller(keys="", uses=LOCAL, top=""):
    return f"on: push\n{top}jobs:\n  a: {{uses: {uses}{', ' + keys if keys else ''}}}\n"


def call(text, files, **keys):
    def resolve(name):
        if name not in files:
            raise LookupError("there is no such file")
        return files[name]

    return load(text, path="a.yml", resolve=resolve, **keys)


def refused(text, files, **keys):
    with pytest.raises(WorkflowErrors) as caught:
        call(text, files, **keys)
    return [each.message for each in caught.value.problems]


def test_the_called_workflow_hangs_on_its_job():
    """What `uses` names is read and checked with the caller."""
    found = call(caller(), {LOCAL: CALLEE % ("", "")})
    assert list(found.jobs["a"].called.jobs) == ["x"]
    assert found.unsupported == ()


def test_calls_are_unsupported_where_nobody_looks_them_up():
    """Without a way to look up, the run says so."""
    assert "not looked up" in load(caller(), path="a.yml").unsupported[0].message


@pytest.mark.parametrize(
    ("keys", "declared", "words"),
    [
        ("", "{inputs: {i: {type: string, required: true}}}", "Input i is required"),
        ("with: {j: 1}", "", "Invalid input, j is not defined"),
        ("with: {i: x}", "{inputs: {i: {type: number}}}", "the input is a number"),
        ("with: {i: x}", "{inputs: {i: {type: boolean}}}", "the input is a boolean"),
        ("", "{secrets: {s: {required: true}}}", "Secret s is required"),
        ("secrets: {t: x}", "", "Invalid secret, t is not defined"),
    ],
)
def test_what_is_passed_must_fit(keys, declared, words):
    """Inputs and secrets are compared with what the called workflow declares."""
    assert words in refused(caller(keys), {LOCAL: CALLEE % (declared, "")})[0]


@pytest.mark.parametrize(
    ("keys", "declared"),
    [
        ("with: {I: 5}", "{inputs: {i: {type: number, required: true}}}"),
        ("with: {i: '${{ vars.x }}'}", "{inputs: {i: {type: boolean}}}"),
        ("with: {i: 5}", "{inputs: {i: {type: string}}}"),
        ("secrets: inherit", "{secrets: {s: {required: true}}}"),
    ],
)
def test_what_fits_is_taken(keys, declared):
    """Names are compared without case, expressions may give anything, a string takes a number."""
    assert call(caller(keys), {LOCAL: CALLEE % (declared, "")}).jobs["a"].called is not None


def test_a_called_file_must_exist_and_be_callable():
    """A missing file, a wrong reference and a file without workflow_call are problems at `uses`."""
    assert "there is no such file" in refused(caller(), {})[0]
    assert "names no reusable workflow" in refused(caller(uses="./x.yml"), {})[0]
    assert (
        "cannot be called"
        in refused(caller(), {LOCAL: (CALLEE % ("", "")).replace("{workflow_call: }", "push")})[0]
    )


def test_problems_of_a_called_file_have_its_name():
    """Their path is the called file's."""
    with pytest.raises(WorkflowErrors) as caught:
        call(caller(), {LOCAL: "on: workflow_call\njobs: {x: {runs-on: y, stepz: []}}\n"})
    assert caught.value.problems[0].path == LOCAL


def test_permissions_can_only_shrink():
    """A called job asking for more than its caller has is refused; asking for less is not."""
    wants = CALLEE % ("", ", permissions: {contents: write}")
    assert (
        "requesting 'contents: write'"
        in refused(caller(top="permissions: {contents: read}\n"), {LOCAL: wants})[0]
    )
    assert "is only allowed" in refused(caller("permissions: {}"), {LOCAL: wants})[0]
    assert refused(caller(), {LOCAL: wants}, permissions={"contents": "read"})
    assert call(caller("permissions: write-all"), {LOCAL: wants})
    assert call(caller(), {LOCAL: wants})


def test_a_local_call_of_a_remote_file_stays_in_its_repository():
    """`./` means the repository and ref of the file that says it."""
    remote = "o/r/.github/workflows/b.yml@v1"
    files = {
        remote: "on: workflow_call\njobs: {x: {uses: ./.github/workflows/c.yml}}\n",
        "o/r/.github/workflows/c.yml@v1": CALLEE % ("", ""),
    }
    assert call(caller(uses=remote), files).jobs["a"].called.jobs["x"].called is not None


def test_a_workflow_that_calls_itself_ends_at_the_depth():
    """Recursion is refused, not followed."""
    itself = f"on: workflow_call\njobs: {{x: {{uses: {LOCAL}}}}}\n"
    assert "depth exceeded 10" in refused(caller(), {LOCAL: itself})[0]


def test_fan_out_is_bounded():
    """Many calls of many calls count as jobs before they cost anything."""
    names = [f"./.github/workflows/{letter}.yml" for letter in "bcdefgh"]
    files = {names[-1]: CALLEE % ("", "")}
    for name, below in itertools.pairwise(names):
        jobs = "".join(f"  j{index}: {{uses: {below}}}\n" for index in range(30))
        files[name] = f"on: workflow_call\njobs:\n{jobs}"
    assert any("may not contain more than 1000 jobs" in each for each in refused(caller(), files))


def test_different_files_are_bounded():
    """More files than the limit are refused."""
    names = [f"./.github/workflows/f{index}.yml" for index in range(5)]
    text = "on: push\njobs:\n" + "".join(
        f"  j{index}: {{uses: {name}}}\n" for index, name in enumerate(names)
    )
    files = dict.fromkeys(names, CALLEE % ("", ""))
    assert "more than 3 different" in refused(text, files, limits=Limits(files=3))[0]
