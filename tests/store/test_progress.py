"""Rows to nodes and decisions to changes: nothing the graph decided is lost on the way to the ledger."""

from runnerd.model import JobRecord, Outcome, Phase
from runnerd.store.changes import UNEXPANDED, EndJob, EndRun, ExpandJob, QueueJob, SkipJob
from runnerd.store.progress import nodes, progress
from runnerd.workflow import graph
from runnerd.workflow.model import Leg


def row(id: int, key: str = "build", leg: int = 0, **fields) -> JobRecord:
    return JobRecord(id=id, run=1, key=key, leg=leg, name=f"{key} {leg}", **fields)


def leg(index: int, *labels: str) -> graph.ExpandedLeg:
    return graph.ExpandedLeg(
        leg=Leg(index=index, total=2, name=f"build ({index})", matrix={"n": index}), labels=labels
    )


def test_a_job_without_legs_is_an_unexpanded_node():
    """The one row of a job whose matrix is unknown has no legs for the graph."""
    assert nodes([row(1, leg=UNEXPANDED)]) == {"build": graph.NodeState(key="build", legs=None)}


def test_a_job_that_ended_without_legs_counts_as_one_ended_leg():
    """A job skipped before its matrix was known has ended, for who needs it."""
    rows = [row(1, leg=UNEXPANDED, phase=Phase.DONE, outcome=Outcome.SKIPPED)]
    (only,) = nodes(rows)["build"].legs
    assert (only.phase, only.outcome) == (Phase.DONE, Outcome.SKIPPED)


def test_legs_stand_in_their_order_with_their_state():
    """What the graph decides by (phase, outcome, outputs, allowed failure) comes from the rows."""
    rows = [
        row(2, leg=1, phase=Phase.RUNNING),
        row(1, leg=0, phase=Phase.DONE, outcome=Outcome.FAILURE, allowed_to_fail=True, outputs={"a": "b"}),
    ]
    first, second = nodes(rows)["build"].legs
    assert (first.index, first.outcome, first.allowed_to_fail) == (0, Outcome.FAILURE, True)
    assert first.outputs == {"a": "b"}
    assert (second.index, second.phase) == (1, Phase.RUNNING)


def test_expanding_writes_every_leg():
    """Each leg becomes a job with its name, labels and matrix values."""
    todo = progress([graph.Expand("build", (leg(0, "linux"), leg(1, "linux")))], [row(1, leg=-1)], 5.0)
    (change,) = todo.changes
    assert isinstance(change, ExpandJob)
    assert [(new.leg, new.name, new.labels) for new in change.legs] == [
        (0, "build (0)", ("linux",)),
        (1, "build (1)", ("linux",)),
    ]


def test_foreign_legs_of_a_matrix_are_left_out_unless_all_are_foreign():
    """Only our legs are written down; where none is ours, all are, to end with the reason."""

    def ours(labels):
        return "linux" in labels

    mixed = graph.Expand("build", (leg(0, "linux"), leg(1, "windows")))
    (change,) = progress([mixed], [row(1, leg=-1)], 5.0, ours=ours).changes
    assert [new.leg for new in change.legs] == [0]
    foreign = graph.Expand("build", (leg(0, "macos"), leg(1, "windows")))
    (change,) = progress([foreign], [row(1, leg=-1)], 5.0, ours=ours).changes
    assert [new.leg for new in change.legs] == [0, 1]


def test_starting_queues_and_asks_for_a_machine():
    """A started leg is queued in the ledger first and then wants a machine."""
    todo = progress([graph.Start("build", 0)], [row(4)], 5.0)
    assert todo.changes == (QueueJob(job=4, now=5.0),)
    assert todo.start == (4,)


def test_skipping_and_failing_a_whole_job_end_every_waiting_leg():
    """Without an index all legs that wait are ended; those that run are not touched."""
    rows = [row(1, leg=0), row(2, leg=1), row(3, leg=2, phase=Phase.RUNNING)]
    assert progress([graph.Skip("build", None, "no")], rows, 0.0).changes == (
        SkipJob(job=1, reason="no"),
        SkipJob(job=2, reason="no"),
    )
    failed = progress([graph.Fail("build", None, Outcome.STARTUP_FAILURE, "bad")], rows, 0.0).changes
    assert [(c.job, c.result.outcome) for c in failed if isinstance(c, EndJob)] == [
        (1, Outcome.STARTUP_FAILURE),
        (2, Outcome.STARTUP_FAILURE),
    ]


def test_cancelling_changes_no_row_but_stops_the_task():
    """A leg that has a task is stopped through it; its task writes the outcome."""
    todo = progress([graph.Cancel("build", 0, "told to")], [row(4, phase=Phase.RUNNING)], 0.0)
    assert todo.changes == ()
    assert todo.cancel == {4: "told to"}


def test_finishing_ends_the_run():
    """The graph's last decision becomes the run's outcome."""
    todo = progress([graph.Finish(Outcome.SUCCESS, "")], [], 0.0)
    assert todo.changes == (EndRun(outcome=Outcome.SUCCESS, reason=""),)
    assert todo.outcome is Outcome.SUCCESS
