# ruff: noqa: E501 - flow-style workflows are read best on one line
"""Whole files: GitHub's own examples, all problems at once, the cache, and hostile text."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.workflow import Limits, WorkflowErrors, load, load_cached
from runnerd.workflow.reader.settings import PERMISSIONS

JUSTIFIED = {
    "errors-anchor-tag": "anchors were introduced after this example was written",
    "errors-max-result-size": "GitHub counts bytes of its own objects; here text, nodes and aliases are counted",
    "errors-reusable-workflow-max-result-size": "the same",
    "events-mapping-all": "the example does not look at `on`; GitHub refuses a filter together with its opposite",
}
POLICIES = {
    "LimitedRead": {"contents": "read", "packages": "read"},
    "Write": dict.fromkeys(PERMISSIONS, "write"),
}


def examples(cases):
    """Each example with the problems found, or None."""
    for case in cases:
        options, files = case["options"], case["files"]

        def resolve(name, files=files):
            for key in (name, name.removeprefix("./")):
                if key in files:
                    return files[key]
            raise LookupError("no such file")

        limits = {
            "depth": options.get("max-depth"),
            "text": options.get("max-file-size"),
            "jobs": options.get("max-job-limit"),
            "calls": options.get("max-nested-reusable-workflows-depth"),
        }
        try:
            load(
                case["input"],
                path=f".github/workflows/{case['id']}.yml",
                resolve=None
                if "skip-reusable-workflows" in options or "is-partial-rerun" in options
                else resolve,
                limits=Limits(**{key: value for key, value in limits.items() if value is not None}),
                features=frozenset(("reusable",)),
                permissions=POLICIES.get(options.get("permissions-policy")),
            )
        except WorkflowErrors as errors:
            yield case, errors.problems
        else:
            yield case, None


def test_the_verdict_on_every_example_of_github(reference):
    """Files GitHub accepts are accepted, files it rejects are rejected, but for four with a reason."""
    cases = reference("workflow_parser.json")
    wrong = {case["id"] for case, found in examples(cases) if (found is not None) != case["is_error"]}
    assert wrong == set(JUSTIFIED)
    assert len(cases) == 195


def test_the_places_of_problems_are_github_s(reference):
    """Line and column agree on at least 95 % of the rejected examples that name one."""
    agree, total = 0, 0
    for case, found in examples(reference("workflow_parser.json")):
        places = {
            (int(line), int(column))
            for error in case["expected"].get("errors", ())
            for line, column in re.findall(r"Line: (\d+), Col: (\d+)", error["Message"])
        }
        if found is not None and places:
            total += 1
            agree += places == {(each.line, each.column) for each in found}
    assert total > 70
    assert agree >= 0.95 * total


def test_files_made_from_the_schema_get_the_right_verdict(generated, problems):
    """Hundreds of files that use every reachable definition: the valid are taken, one wrong key is the only problem found."""
    features = frozenset(("containers", "services"))
    wrong = [
        (text, found)
        for text, valid in generated
        if bool(found := problems(text, features=features)) is valid
        or any("'qqqqq'" not in message for _, _, message in found)
    ]
    assert wrong[:3] == []
    assert len(generated) > 600


def test_all_problems_of_a_file_at_once(problems):
    """One look shows everything, in the order of the file, with the nearest valid word."""
    found = problems(
        "on: pusch\nenvv: {}\njobs:\n  a:\n    run-on: x\n    steps:\n      - rum: y\n      - run: ${{ secret.x }}\n"
    )
    assert [(line, column) for line, column, _ in found] == [(1, 5), (2, 1), (5, 5), (5, 5), (7, 9), (8, 14)]
    text = "\n".join(message for _, _, message in found)
    for word in ("'push'", "'env'", "'runs-on'", "'run'", "'secrets'"):
        assert f"did you mean {word}" in text


def test_a_name_is_kept_as_written():
    """`name: 1.10` is no number, and without a name the path serves."""
    assert load("name: 1.10\non: push\njobs: {a: {runs-on: x, steps: [{run: y}]}}", path="p").name == "1.10"
    assert load("on: push\njobs: {a: {runs-on: x, steps: [{run: y}]}}", path="p").name == "p"


def test_required_keys(problems):
    """`on` and `jobs` must be there, and the file must be a mapping."""
    assert [message for _, _, message in problems("name: x")] == [
        "a workflow needs 'jobs'",
        "a workflow needs 'on'",
    ]
    assert problems("[1]")[0][2].startswith("A sequence was not expected")
    assert problems("# nothing")[0][2] == "the file is empty"


def test_only_so_many_problems_are_kept(problems):
    """A file with thousands of mistakes gives as many as the limit."""
    text = "on: push\njobs: {a: {runs-on: x, steps: [{run: y}]}}\n" + "".join(
        f"k{i}: 1\n" for i in range(500)
    )
    assert len(problems(text, limits=Limits(errors=7))) == 7


def test_the_cache_remembers_files_and_their_problems():
    """The same text is read once; a bad text raises again."""
    text = "on: push\njobs: {a: {runs-on: x, steps: [{run: y}]}}\n"
    assert load_cached(text, "w.yml") is load_cached(text, "w.yml")
    assert load_cached(text, "other.yml").path == "other.yml"
    for _ in range(2):
        with pytest.raises(WorkflowErrors):
            load_cached("on: nothing", "w.yml")


def test_a_hundred_lines_are_fast():
    """Text to checked workflow stays within milliseconds of a core."""
    steps = "".join(
        f"      - name: Step {i} ${{{{ matrix.v }}}}\n        if: github.ref == 'r{i}'\n        run: echo ${{{{ env.A }}}}\n"
        for i in range(30)
    )
    text = (
        "on: {push: {branches: [main]}}\njobs:\n  a:\n    runs-on: ${{ matrix.v }}\n    strategy:\n"
        f"      matrix:\n        v: [a, b]\n    steps:\n{steps}"
    )
    best = 1.0
    for _ in range(10):
        start = time.thread_time()
        load(text, path="w")
        best = min(best, time.thread_time() - start)
    assert best < 0.01


WORDS = [
    "on",
    "push",
    "pull_request",
    "branches",
    "types",
    "jobs",
    "a",
    "b",
    "runs-on",
    "steps",
    "run",
    "uses",
    "with",
    "env",
    "if",
    "needs",
    "strategy",
    "matrix",
    "include",
    "exclude",
    "name",
    "id",
    "timeout-minutes",
    "container",
    "services",
    "concurrency",
    "group",
    "permissions",
    "read-all",
    "workflow_call",
    "inputs",
    "outputs",
    "secrets",
    "inherit",
    "schedule",
    "cron",
    "parallel",
    "wait",
    "background",
    "${{",
    "${{github.x}}",
    "}}",
    "*a",
    "&a",
    "!!int",
    "-",
    ":",
    "?",
    "[",
    "]",
    "{",
    "}",
    ",",
    "'",
    '"',
    "|",
    ">",
    "é",
    "1.5",
    "true",
    "null",
    "~",
    "<<",
    "actions/checkout@v4",
    "./.github/workflows/x.yml",
]


@settings(max_examples=400)
@given(st.lists(st.sampled_from([*WORDS, "\n", "\n  ", "\n    ", ": ", "- "]), max_size=60).map(" ".join))
def test_no_text_raises_anything_but_workflow_errors(text):
    """Whatever the text, the answer is a workflow or its problems."""
    for prefix in ("", "on: push\njobs:\n  a:\n    runs-on: x\n    steps: [{run: x}]\n    "):
        try:
            found = load(
                prefix + text,
                path="w",
                features=frozenset(("reusable",)),
                resolve=lambda name: text,
            )
        except WorkflowErrors as errors:
            assert errors.problems  # noqa: PT017
        else:
            assert found.jobs
