"""What is asked of the ledger is plain data that survives being stored and sent."""

import msgspec
import pytest

from runnerd.store.changes import UNEXPANDED, NewJob, QueueJob


def test_a_planned_job_comes_back_from_json():
    """A run's plan is stored as JSON, for another attempt."""
    job = NewJob(key="a", leg=UNEXPANDED, name="A", labels=("x",), matrix={"os": ["a", 1, None]})
    assert msgspec.json.decode(msgspec.json.encode(job), type=NewJob) == job


def test_changes_cannot_change():
    """A change is decided once; nobody on its way can alter it."""
    change = QueueJob(job=1, now=2.0)
    with pytest.raises(AttributeError, match="immutable"):
        change.job = 2
