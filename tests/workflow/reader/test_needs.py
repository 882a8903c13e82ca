"""The needs of jobs: known, without case, without cycles."""

from __future__ import annotations

from runnerd.workflow import load


def jobs(**needs):
    lines = [
        f"  {name}: {{runs-on: x, steps: [{{run: y}}], needs: {value}}}\n" for name, value in needs.items()
    ]
    return "on: push\njobs:\n" + "".join(lines)


def test_needs_are_compared_without_case():
    """The ids of the file come out, each once."""
    found = load(jobs(a="[]", B="[A, a]", c="b"), path="w")
    assert [job.needs for job in found.jobs.values()] == [(), ("a",), ("B",)]


def test_unknown_needs_are_named(problems):
    """Every need that no job has is a problem at its place."""
    found = problems(jobs(a="[]", b="[x, y]"))
    assert [message for _, _, message in found] == [
        "Job 'b' depends on unknown job 'x'.",
        "Job 'b' depends on unknown job 'y'.",
    ]


def test_cycles_are_named_without_what_hangs_on_them(problems):
    """Only the jobs of the cycle are reported, each at the need that closes it."""
    found = problems(jobs(a="[]", b="[a, c]", c="b", d="c"))
    assert [message.split(" which")[0] for _, _, message in found] == [
        "Job 'b' depends on job 'c'",
        "Job 'c' depends on job 'b'",
    ]
    assert problems(jobs(a="[]", b="b"))[0][2].startswith("Job 'b' depends on job 'b'")


def test_something_must_be_able_to_start(problems):
    """A workflow where every job needs another is refused as a whole."""
    assert [message for _, _, message in problems(jobs(a="b", b="a"))] == [
        "The workflow must contain at least one job with no dependencies."
    ]


def test_long_chains_are_no_problem():
    """A chain of hundreds of jobs is read without recursion."""
    assert len(load(jobs(j0="[]", **{f"j{i}": f"j{i - 1}" for i in range(1, 800)}), path="w").jobs) == 800
