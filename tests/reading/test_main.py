"""The process that reads one file, started as the daemon starts it."""

import subprocess

from runnerd.reading import exchange
from runnerd.reading.process import COMMAND, MEMORY

GOOD = "on: push\njobs: {a: {runs-on: x, steps: [{run: y}]}}\n"


def ask(text, *, memory=MEMORY):
    question = exchange.encode(exchange.Question(text=text, path="w.yml"))
    done = subprocess.run(
        [*COMMAND, str(memory), "30"], input=question, capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return exchange.answer(done.stdout)


def test_it_answers_with_the_workflow_or_its_problems():
    """A good file gives a workflow, a bad one what is wrong with it."""
    assert list(ask(GOOD).workflow.jobs) == ["a"]
    answer = ask(GOOD + "x: 1\n")
    assert (answer.workflow, answer.problems[0].line) == (None, 3)


def test_it_says_when_the_memory_does_not_suffice():
    """The kernel holds it to its memory, and what was too large is said."""
    lines = "".join(f"  K{n}: v{n}\n" for n in range(9000))
    answer = ask(GOOD + "env:\n" + lines + "# " + "x" * (1 << 19), memory=4 << 20)
    assert "MiB of memory" in answer.problems[0].message
