"""The rooms that fill a job's ports keep their form."""

import inspect

import pytest

from runnerd.git.checkout import MirrorCheckout, WorkingTreeCheckout
from runnerd.jobs import ports
from runnerd.store.logs import JobLog


@pytest.mark.parametrize(
    ("port", "filled"),
    [
        (ports.Checkout, MirrorCheckout),
        (ports.Checkout, WorkingTreeCheckout),
        (ports.LogSink, JobLog),
    ],
)
def test_what_fills_a_port_takes_the_same_arguments(port, filled):
    """Names and kinds of every method's parameters agree, and all are coroutines."""
    for name, method in vars(port).items():
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        other = getattr(filled, name)
        wanted = [(p.name, p.kind) for p in inspect.signature(method).parameters.values()]
        assert [(p.name, p.kind) for p in inspect.signature(other).parameters.values()] == wanted
        assert inspect.iscoroutinefunction(other)
