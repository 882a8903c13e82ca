"""What cannot be run, and how texts are stored."""

import msgspec
import pytest

from runnerd.jobs.outcome import joined, storable, unrunnable


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": ()}, "no steps"),
        ({"uses": "./x.yml"}, "reusable workflow"),
        ({"container": "node"}, "`container`"),
        ({"services": {"db": {}}}, "`services`"),
        ({"snapshot": "x"}, "`snapshot`"),
        ({}, ""),
    ],
)
def test_what_cannot_be_started_is_said(bench, change, said):
    """Each with its own sentence; an ordinary job has none."""
    spec = bench.spec("on: push\njobs: {a: {runs-on: x, steps: [{run: x}]}}")
    reason = unrunnable(msgspec.structs.replace(spec, job=msgspec.structs.replace(spec.job, **change)))
    assert said in reason
    assert bool(said) is bool(reason)


def test_summaries_are_cut_visibly():
    """The whole, cut and note included, stays within the limit."""
    assert joined("short", 2048) == "short"
    cut = joined("x" * 5000, 2048)
    assert len(cut) == 2048
    assert cut.endswith("longer than 2 KiB together)*")


def test_what_is_stored_is_text_for_everybody():
    """Expressions can make characters that no file and no database holds."""
    assert storable("a\0b\ud800ü") == "a\ufffdb?ü"
