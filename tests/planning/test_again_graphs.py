"""Parts of any workflow run again: each attempt comes to what a whole run of it would have come to."""

from functools import partial

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.model import Actor, Event, JobResult, Outcome, Phase, Repository
from runnerd.planning.again import CannotRerun, Wish, part_of
from runnerd.planning.reread import reread
from runnerd.reading.process import Reader
from runnerd.store import deliveries, engine, jobs, runs, transition
from runnerd.store.changes import UNEXPANDED, EndJob, NewCalled, NewJob, NewRun
from runnerd.store.progress import nodes, progress
from runnerd.store.records import Delivery
from runnerd.store.schema import migrate
from runnerd.workflow import graph

NAME = "./.github/workflows/c.yml"
CALLED = """
on: {workflow_call: {outputs: {o: {value: "${{ jobs.d.outputs.o }}"}}}}
jobs:
  c: {runs-on: x, steps: [{run: y}], outputs: {o: "1"}}
  d: {needs: c, if: "%s", runs-on: x, steps: [{run: y}], outputs: {o: "1"}}
"""
EVENT = Event(
    delivery="d", name="push", repository=Repository(id=1, full_name="o/r"), sender=Actor(id=1, login="o")
)
ENDS = st.tuples(st.sampled_from([Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILURE]), st.sampled_from("01"))
"""How a job that runs ends, and its output."""


@st.composite
def workflows(draw):
    """A file of a few jobs that need each other, with conditions, legs and calls."""
    lines, conditions = [], ["", "always()", "failure()", "!cancelled()"]
    count = draw(st.integers(2, 5))
    for number in range(count):
        needs = sorted(draw(st.sets(st.integers(0, number - 1)))) if number else []
        chosen = draw(st.sampled_from([*conditions, *(f"needs.j{need}.outputs.o == '1'" for need in needs)]))
        parts = [f"needs: [{', '.join(f'j{need}' for need in needs)}]"] if needs else []
        parts += [f'if: "{chosen}"'] if chosen else []
        parts += ["strategy: {fail-fast: false, matrix: {n: [1, 2]}}"] if draw(st.booleans()) else []
        calls = draw(st.integers(0, 3)) == 0
        parts += [f"uses: {NAME}"] if calls else ["runs-on: x, steps: [{run: y}]", 'outputs: {o: "1"}']
        lines.append(f"  j{number}: {{{', '.join(parts)}}}")
    called = CALLED % draw(st.sampled_from(["success()", "always()", "failure()"]))
    return "on: push\njobs:\n" + "\n".join(lines), called, count


class Desk:
    """A ledger in one transaction, as far as whoever finds a part of a run asks it."""

    def __init__(self, connection, source, called, count):
        self.connection = connection
        deliveries.accept(connection, Delivery(id="d", event="push", body=b"{}", received=1.0))
        file = NewCalled(name=NAME, text=called, repository="o/r", path=NAME[2:], ref="main", sha="c" * 40)
        new = NewRun(
            workflow_path="ci.yml", workflow_name="CI", title="t", source_text=source, event=EVENT,
            jobs=tuple(NewJob(key=f"j{n}", leg=UNEXPANDED, name=f"j{n}") for n in range(count)),
            called=(file,) if NAME in source else (),
        )  # fmt: skip
        [self.first] = runs.plan(connection, "d", [new], (), 1.0)
        self.workflow = trio.run(partial(reread, self.record(self.first), ledger=self, reader=Reader()))

    def record(self, run):
        return runs.find(self.connection, run)

    def rows(self, run):
        return jobs.of_run(self.connection, run)

    async def source(self, sha256):
        return runs.source(self.connection, sha256)

    async def newest_attempt(self, run):
        return runs.newest(self.connection, run)

    async def jobs(self, run):
        return self.rows(run)

    async def calls(self, run):
        return jobs.calls_of(self.connection, run)

    def walk(self, run, ends):
        """Take a run to its end; `ends` says by key and leg how a job ends that runs."""
        while self.record(run).phase is not Phase.DONE:
            rows = self.rows(run)
            seen = nodes(rows, jobs.calls_of(self.connection, run))
            actions = graph.decide(self.workflow, seen, {"github": {}}, cancelled=False)
            todo = progress(actions, rows, 1.0)
            assert todo.changes, "a run that has not ended goes on"
            transition.apply(self.connection, run, todo.changes, 1.0)
            for job in todo.start:
                row = jobs.find(self.connection, job)
                outcome, output = ends(row)
                epoch = jobs.claim(self.connection, job, "m", 1.0)
                result = JobResult(outcome=outcome, outputs={"o": output})
                transition.apply(self.connection, run, [EndJob(job=job, epoch=epoch, result=result)], 1.0)
        return self.record(run).outcome


def came_to(rows):
    """What became of each job that has legs; one that has none was skipped."""
    return {(row.key, row.leg): (row.outcome, dict(row.outputs)) for row in rows}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty ledger."""
    made = engine.writing(tmp_path_factory.mktemp("again") / "ledger.db")
    migrate(made)
    yield made
    made.dispose()


@given(workflows(), st.data())
@settings(max_examples=25, deadline=None)
def test_each_attempt_comes_to_what_a_whole_run_would_have(database, written, data):
    """Whatever runs again and however it ends: what is carried over agrees with what it needs by then."""

    def draw(row):
        return data.draw(ENDS, label=f"{row.key} {row.leg}")

    with database.connect() as connection, connection.begin() as transaction:
        desk = Desk(connection, *written)
        run = desk.first
        desk.walk(run, draw)
        for _ in range(2):
            job = data.draw(st.sampled_from(["", *(str(row.id) for row in desk.rows(run))]), label="again")
            ask = partial(part_of, desk.record(run), Wish(job=job), ledger=desk, reader=Reader())
            try:
                part = trio.run(partial(ask, kept=lambda job: []))
            except CannotRerun:
                continue
            run = runs.rerun(connection, run, 1.0, part.again)
            outcome = desk.walk(run, draw)
            ended = came_to(desk.rows(run))

            def as_it_did(row, ended=ended):
                found, outputs = ended.get((row.key, row.leg), (Outcome.SKIPPED, {}))
                assert found is not Outcome.SKIPPED, f"{row.key} was skipped and would have run"
                return found, outputs["o"]

            run = runs.rerun(connection, run, 1.0)
            assert desk.walk(run, as_it_did) is outcome
            assert came_to(desk.rows(run)) == ended
        transaction.rollback()
