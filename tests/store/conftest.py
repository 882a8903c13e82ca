"""A ledger for tests: `desk` for its rooms' plain functions, `ledger` for the whole with its writer."""

from functools import partial

import pytest
import sqlalchemy as sa

from runnerd.model import Actor, Event, JobRecord, Repository
from runnerd.store import deliveries, engine, jobs, runs, transition
from runnerd.store.changes import NewJob, NewRun, QueueJob
from runnerd.store.ledger import Ledger, open_ledger
from runnerd.store.records import Delivery
from runnerd.store.tables import outbox


class Desk:
    """One open transaction on an empty ledger, a clock that is set by hand, and things to write down."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.now = 100.0

    @staticmethod
    def event(**fields) -> Event:
        """A push to o/r, or what the fields make of it."""
        known = {
            "delivery": "d1",
            "name": "push",
            "repository": Repository(id=5, full_name="o/r"),
            "sender": Actor(id=1, login="ada"),
            "sha": "a" * 40,
        }
        return Event(**{**known, **fields})

    @staticmethod
    def new_job(key: str = "build", **fields) -> NewJob:
        """A planned job."""
        return NewJob(**{"key": key, "name": key, "labels": ("self-hosted",), **fields})

    def new_run(self, *jobs: NewJob, path: str = ".github/workflows/ci.yml", **fields) -> NewRun:
        """A planned run of one workflow file."""
        known = {
            "workflow_path": path,
            "workflow_name": "CI",
            "title": "a commit",
            "source_text": "on: push",
            "event": self.event(),
            "jobs": jobs,
        }
        return NewRun(**{**known, **fields})

    @staticmethod
    def delivery(id: str = "d1", **fields) -> Delivery:
        """A delivery that was just received."""
        return Delivery(**{"id": id, "event": "push", "body": b'{"a":1}', "received": 1.0, **fields})

    def deliver(self, id: str = "d1", **fields) -> str:
        """Accept a delivery."""
        return deliveries.accept(self.connection, self.delivery(id, **fields))

    def plan(self, *new: NewRun, delivery: str = "d1") -> list[int]:
        """Accept and plan a delivery."""
        self.deliver(delivery)
        return runs.plan(self.connection, delivery, new, (), self.now)

    def run_with(self, *new: NewJob) -> int:
        """A run of one delivery with these jobs."""
        return self.plan(self.new_run(*new))[0]

    def apply(self, run: int, *changes) -> None:
        """Apply changes to a run."""
        transition.apply(self.connection, run, changes, self.now)

    def jobs(self, run: int) -> list[JobRecord]:
        """The jobs of a run."""
        return jobs.of_run(self.connection, run)

    def claimed(self, run: int, index: int = 0, machine: str = "m1") -> tuple[int, int]:
        """Queue and claim a job of a run: its id and epoch."""
        job = self.jobs(run)[index]
        self.apply(run, QueueJob(job=job.id, now=self.now))
        epoch = jobs.claim(self.connection, job.id, machine, self.now)
        assert epoch is not None
        return job.id, epoch

    def owed(self) -> list[tuple[int | None, str, str]]:
        """(job, kind, state) of every report that waits."""
        query = sa.select(outbox).where(outbox.c.sent.is_(None)).order_by(outbox.c.id)
        return [(row.job, row.kind.value, row.state.value) for row in self.connection.execute(query)]


@pytest.fixture
def desk(tmp_path, migrate):
    """A desk whose transaction is rolled back at the end."""
    database = engine.writing(tmp_path / "ledger.db")
    migrate(database)
    with database.connect() as connection:
        yield Desk(connection)
    database.dispose()


@pytest.fixture
async def ledger(tmp_path, nursery):
    """An open ledger whose writer runs and whose clock stands at 100."""
    async with open_ledger(tmp_path, clock=lambda: 100.0) as opened:
        await nursery.start(partial(Ledger.serve_writes, opened))
        yield opened
        opened.close()
