"""What every noun of the reader shares: keys, kinds, and the checks of expressions."""

from __future__ import annotations

from runnerd.workflow import load


def test_unknown_keys_name_the_nearest(job_problems):
    """The nearest valid key is offered, and none where nothing is near."""
    assert job_problems("timeout-minuts: 5") == [
        "Unexpected key of a job 'timeout-minuts'; did you mean 'timeout-minutes'?"
    ]
    assert job_problems("zzzzzz: 5") == ["Unexpected key of a job 'zzzzzz'"]


def test_keys_have_their_case(job_problems):
    """`Env` is not `env`."""
    assert "did you mean 'env'" in job_problems("Env: {}")[0]


def test_kinds_are_checked(job_problems):
    """A sequence where a mapping belongs is named, and the reverse."""
    assert job_problems("env: [a]") == ["A sequence was not expected; a mapping was"]
    assert job_problems("", steps="{a: b}") == ["A mapping was not expected; a sequence was"]
    assert job_problems("", steps="x") == ["Unexpected value 'x'; a sequence was expected"]


def test_a_simple_path_is_checked_like_any_expression(job_problems):
    """The quick way for `${{ a.b }}` knows the same contexts, and leaves the rest to the parser."""
    assert job_problems("name: '${{ github.x }} ${{ matrix.y }}'") == []
    (message,) = job_problems("name: '${{ github.x }} ${{ steps.y }}'")
    assert "'steps' cannot be used here (position 1 of 'steps.y'); this key may use github" in message
    assert "Unexpected symbol" in job_problems("name: '${{ github.1 }}'")[0]
    assert (
        "is no context" in job_problems("name: '${{ true.x }} ${{ nope }}'")[0]
        or "Unexpected" in (job_problems("name: '${{ true.x }} ${{ nope }}'")[0])
    )


def test_functions_belong_to_their_keys(job_problems):
    """hashFiles is for steps, status functions for conditions, unknown ones for nobody."""
    assert job_problems("", steps="[{run: '${{ hashFiles(1) }}'}]") == []
    assert "'hashFiles' cannot be called here" in job_problems("name: '${{ hashFiles(1) }}'")[0]
    assert "'always' cannot be called here" in job_problems("", steps="[{run: '${{ always() }}'}]")[0]
    assert "did you mean 'contains'" in job_problems("", steps="[{run: '${{ contain(1, 2) }}'}]")[0]


def test_what_is_not_supported_is_said_and_no_error():
    """`unsupported` has a sentence with its place for what the caller cannot run."""
    text = "on: push\njobs:\n  a:\n    runs-on: x\n    container: alpine\n    steps: [{run: x}]\n"
    (problem,) = load(text, path="w").unsupported
    assert (problem.line, problem.column, problem.severity) == (5, 16, "error")
    assert load(text, path="w", features=frozenset(("containers",))).unsupported == ()
