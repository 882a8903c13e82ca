"""How jobs stand: results of jobs that called workflows."""

from runnerd.model import Outcome, Phase
from runnerd.workflow.model import Call
from runnerd.workflow.nodes import LegState, NodeState, ended, node_result, with_calls

CALLS = (Call(key="a", name="a"),)


def done(outcome):
    return (LegState(index=0, phase=Phase.DONE, outcome=outcome),)


def test_a_calls_result_is_that_of_all_jobs_below_it():
    """Also of those which a nested call brought in."""
    nodes = {
        "a": NodeState(key="a", calls=CALLS),
        "a.0/b": NodeState(key="a.0/b", calls=(Call(key="a.0/b", name="a / b"),)),
        "a.0/b.0/c": NodeState(key="a.0/b.0/c", legs=done(Outcome.FAILURE)),
        "a.0/d": NodeState(key="a.0/d", legs=done(Outcome.SUCCESS)),
    }
    assert node_result(with_calls(nodes)["a"]) == "failure"


def test_a_call_has_not_ended_while_a_job_of_it_is_not_expanded():
    """What is not known yet is not over."""
    nodes = {
        "a": NodeState(key="a", calls=CALLS),
        "a.0/b": NodeState(key="a.0/b", legs=done(Outcome.SUCCESS)),
        "a.0/c": NodeState(key="a.0/c"),
    }
    assert not ended(with_calls(nodes)["a"])
