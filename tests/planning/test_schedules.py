"""Schedules are those of valid files at the tip of the default branch; a start is one delivery."""

import json

import msgspec

from runnerd.forge import events
from runnerd.planning.planner import Planner
from runnerd.planning.schedules import Schedules, start_of
from runnerd.reading.process import Reader
from runnerd.store.ledger import open_ledger
from runnerd.store.records import Delivery, ScheduleRow

from .conftest import CI, REPOSITORY

ON = "{schedule: [{cron: '0 3 * * *'}, {cron: '*/5 * * * *', timezone: Europe/Berlin}], push: }"
ROW = ScheduleRow(
    repository=REPOSITORY, path=".github/workflows/ci.yml", cron="0 3 * * *", zone="UTC", looked=0
)


async def test_the_default_branch_alone_counts(remote, mirrors, site):
    """A topic branch's schedules are none; neither are those of a file that is not valid."""
    remote.write(
        **{".github/workflows/ci.yml": CI.format(on=ON), ".github/workflows/bad.yml": "on: {schedule: x}"}
    )
    remote.commit("schedules")
    remote.branch(
        "topic", **{".github/workflows/more.yml": CI.format(on="{schedule: [{cron: '1 1 * * *'}]}")}
    )
    found = await Schedules(None, mirrors, site.workflow_folders, Reader()).of(REPOSITORY)
    path = ".github/workflows/ci.yml"
    assert found == {(path, "0 3 * * *", "UTC"), (path, "*/5 * * * *", "Europe/Berlin")}


async def test_the_repositories_are_those_that_pushed(tmp_path, nursery):
    """Each by its newest push, with the default branch it names; what cannot be read is left out."""
    async with open_ledger(tmp_path / "state") as ledger:
        await nursery.start(ledger.serve_writes)
        for number, branch in ((1, "main"), (2, "trunk")):
            body = {
                "ref": "refs/heads/main", "before": "0" * 40, "after": "a" * 40,
                "repository": {"id": 7, "full_name": "octo/hello", "default_branch": branch},
            }  # fmt: skip
            await ledger.accept_delivery(
                Delivery(
                    id=f"d{number}",
                    event="push",
                    body=json.dumps(body).encode(),
                    received=float(number),
                    repository="octo/hello",
                )
            )
        await ledger.accept_delivery(
            Delivery(id="x", event="push", body=b"no", received=1.0, repository="octo/x")
        )
        found = await Schedules(ledger, None, (), Reader()).repositories()
        nursery.cancel_scope.cancel()
    assert [(each.full_name, each.default_branch) for each in found] == [("octo/hello", "trunk")]


async def test_a_branch_that_is_not_there_has_none(remote, mirrors, site):
    """A repository without its default branch is asked without harm."""
    remote.commit("something")
    gone = msgspec.structs.replace(REPOSITORY, default_branch="trunk")
    assert await Schedules(None, mirrors, site.workflow_folders, Reader()).of(gone) == set()


def test_a_start_has_one_id(remote):
    """Schedule and minute make the id, and nothing else does."""
    first = start_of(ROW, 100, 6000.0)
    assert first.id == start_of(ROW, 100, 9999.0).id
    others = [
        start_of(ROW, 101, 6000.0),
        start_of(msgspec.structs.replace(ROW, cron="1 3 * * *"), 100, 6000.0),
        start_of(msgspec.structs.replace(ROW, zone="Europe/Berlin"), 100, 6000.0),
        start_of(msgspec.structs.replace(ROW, path="x.yml"), 100, 6000.0),
    ]
    assert len({first.id, *(each.id for each in others)}) == 5
    assert json.loads(first.body)["schedule"] == "0 3 * * *"


async def test_a_start_is_planned_like_any_event(remote, mirrors, site):
    """It decodes to an event at the default branch that starts the one workflow whose schedule is due."""
    remote.write(
        **{".github/workflows/ci.yml": CI.format(on=ON), ".github/workflows/b.yml": CI.format(on=ON)}
    )
    sha = remote.commit("schedules")
    delivery = start_of(ROW, 100, 6000.0)
    event = events.decode(delivery.event, delivery.id, delivery.body)
    plan = await Planner(mirrors, site).plan(event)
    assert [(run.workflow_path, run.event.sha, run.event.ref) for run in plan.runs] == [
        (".github/workflows/ci.yml", sha, "refs/heads/main")
    ]
    assert plan.runs[0].event.payload["schedule"] == "0 3 * * *"


async def test_a_schedule_that_was_taken_out_starts_nothing(remote, mirrors, site):
    """The file at the tip decides, and the note says what it has instead."""
    remote.write(**{".github/workflows/ci.yml": CI.format(on="{schedule: [{cron: '0 4 * * *'}]}")})
    remote.commit("another time")
    delivery = start_of(ROW, 100, 6000.0)
    plan = await Planner(mirrors, site).plan(events.decode(delivery.event, delivery.id, delivery.body))
    assert plan.runs == []
    assert "'0 3 * * *' in UTC is not among [0 4 * * *]" in plan.notes[0].reason
