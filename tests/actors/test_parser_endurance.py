"""What the parser does when something is slow, broken or killed."""

import pytest
import trio

from runnerd.actors import parser
from runnerd.actors.parser import TURN, ParserActor, choose
from runnerd.messages import DeliveryAccepted
from runnerd.model import Outcome
from runnerd.supervise.mailbox import Mailbox

from .conftest import CI, PATIENCE, push


async def test_a_remote_that_does_not_answer_is_tried_again_and_then_given_up(planning, monkeypatch):
    """Meanwhile other repositories are planned; at last a failed run says git's sentence on the commit."""
    monkeypatch.setattr(parser, "PAUSE", 0.05)
    monkeypatch.setattr(parser, "SWEEP_EVERY", 0.02)
    sha = planning.origin.commit({"ci.yml": CI})
    await planning.start(workers=1)
    gone = await planning.accept("push", push("b" * 40, full_name="octo/gone"), repository="octo/gone")
    record, _, _ = await planning.push(sha)
    assert record.state == "planned"
    assert (await planning.ledger.delivery(gone)).state == "pending"
    assert (await planning.settled(gone)).state == "planned"
    [run] = await planning.ledger.runs(9, repository="octo/gone")
    assert (run.outcome, run.event.report_sha) == (Outcome.INFRA_ERROR, "b" * 40)
    assert run.reason.startswith("the repository could not be read: ")
    assert run.reason.endswith("(tried 5 times)")
    assert ("run", "completed") in [
        (row.kind, row.state) for row in await planning.ledger.outbox_due(4e9, 9) if row.run == run.id
    ]


async def test_what_waits_for_no_result_is_rejected(planning, monkeypatch):
    """An event that nobody looks for at a commit leaves its reason in the ledger alone."""
    monkeypatch.setattr(parser, "PAUSE", 0.01)
    monkeypatch.setattr(parser, "SWEEP_EVERY", 0.01)
    await planning.start()
    body = {"ref": "main", "workflow": "ci.yml", "inputs": None,
            "repository": {"id": 5, "full_name": "octo/gone"}}  # fmt: skip
    record = await planning.settled(await planning.accept("workflow_dispatch", body))
    assert record.state == "rejected"
    assert record.reason.endswith("(tried 5 times)")


async def test_a_remote_that_comes_back_is_planned(planning, monkeypatch):
    """A delivery outlives a forge that is down for a while."""
    monkeypatch.setattr(parser, "PAUSE", 0.1)
    monkeypatch.setattr(parser, "SWEEP_EVERY", 0.02)
    sha = planning.origin.commit({"ci.yml": CI})
    away = planning.folder / "away"
    planning.origin.folder.rename(away)
    await planning.start()
    id = await planning.accept("push", push(sha))
    await trio.sleep(0.15)
    away.rename(planning.origin.folder)
    assert (await planning.settled(id)).state == "planned"
    assert len(await planning.told(1)) == 1


async def test_a_fault_of_ours_costs_one_delivery_alone(planning, monkeypatch):
    """A delivery that makes us do wrong ends as a failed run; the parser and the others go on."""
    monkeypatch.setattr(parser, "PAUSE", 0.01)
    monkeypatch.setattr(parser, "SWEEP_EVERY", 0.01)
    bad_sha, sha = planning.origin.commit({"ci.yml": CI + "# bad\n"}), planning.origin.commit({"ci.yml": CI})
    real = planning.mirrors.workflow_files

    async def faulty(repository, commit, *folder):
        if commit == bad_sha:
            raise KeyError("nobody foresaw this")
        return await real(repository, commit, *folder)

    monkeypatch.setattr(planning.mirrors, "workflow_files", faulty)
    _, ended = await planning.start()
    bad = await planning.accept("push", push(bad_sha))
    record, _, _ = await planning.push(sha)
    assert record.state == "planned"
    assert (await planning.settled(bad)).state == "planned"
    [run] = [run for run in await planning.ledger.runs(9) if run.delivery == bad]
    assert run.outcome is Outcome.INFRA_ERROR
    assert run.reason == "a fault of runnerd itself (KeyError): its log says where (tried 5 times)"
    assert not ended.is_set()


async def test_a_repository_without_a_proper_name_starts_nothing(planning, monkeypatch):
    """A name that no folder may have never becomes one, and harms nobody else."""
    monkeypatch.setattr(parser, "PAUSE", 0.01)
    monkeypatch.setattr(parser, "SWEEP_EVERY", 0.01)
    await planning.start()
    await planning.settled(await planning.accept("push", push("b" * 40, full_name="octo/-x")))
    [run] = await planning.ledger.runs(9)
    assert (run.outcome, await planning.ledger.jobs(run.id)) == (Outcome.INFRA_ERROR, [])
    assert "'octo/-x' is not a repository name" in run.reason


async def test_what_an_earlier_parser_left_is_taken_up(planning):
    """A start plans what is pending without a hint, in the order of arrival."""
    shas = [planning.origin.commit({"ci.yml": CI + f"# {n}\n"}) for n in range(3)]
    ids = [await planning.accept("push", push(sha), hint=False) for sha in shas]
    await planning.start()
    for id in ids:
        assert (await planning.settled(id)).state == "planned"
    runs = sorted(await planning.ledger.runs(10), key=lambda run: run.number)
    assert [run.event.sha for run in runs] == shas


async def test_a_lost_hint_costs_a_moment(planning, monkeypatch):
    """The ledger is looked at again and again."""
    monkeypatch.setattr(parser, "SWEEP_EVERY", 0.02)
    sha = planning.origin.commit({"ci.yml": CI})
    await planning.start()
    await trio.sleep(0.05)
    id = await planning.accept("push", push(sha), hint=False)
    assert (await planning.settled(id)).state == "planned"


async def test_a_delivery_that_is_hinted_twice_is_planned_once(planning):
    """Hints are only a reason to look: one run, told once."""
    sha = planning.origin.commit({"ci.yml": CI})
    await planning.start()
    id = await planning.accept("push", push(sha))
    for _ in range(3):
        planning.mailbox.offer(DeliveryAccepted(id))
    await planning.settled(id)
    planning.mailbox.offer(DeliveryAccepted(id))
    other, _, _ = await planning.push(sha)
    assert other.state == "planned"
    assert len([run for run in await planning.ledger.runs(10) if run.delivery == id]) == 1
    assert len(await planning.told(2)) == 2


async def test_closing_finishes_what_is_in_hand_and_leaves_the_rest(planning, monkeypatch):
    """The delivery being planned is planned, the next one stays pending for the next start."""
    sha = planning.origin.commit({"ci.yml": CI})
    reached, go_on = trio.Event(), trio.Event()
    real = planning.mirrors.workflow_files

    async def slow(repository, commit, *folder):
        reached.set()
        await go_on.wait()
        return await real(repository, commit, *folder)

    monkeypatch.setattr(planning.mirrors, "workflow_files", slow)
    _, ended = await planning.start(workers=1)
    first, second = await planning.accept("push", push(sha)), await planning.accept("push", push(sha))
    with trio.fail_after(PATIENCE):
        await reached.wait()
        planning.mailbox.close()
        go_on.set()
        await ended.wait()
    assert (await planning.ledger.delivery(first)).state == "planned"
    assert (await planning.ledger.delivery(second)).state == "pending"


async def test_one_repository_does_not_hold_up_another(planning, monkeypatch):
    """With its remote hanging and a pile of deliveries, other repositories are still planned."""
    hanging = trio.Event()
    real = planning.mirrors.fetch

    async def fetch(repository, *wanted):
        if repository.full_name == "octo/slow":
            await hanging.wait()
        await real(repository, *wanted)

    monkeypatch.setattr(planning.mirrors, "fetch", fetch)
    sha = planning.origin.commit({"ci.yml": CI})
    await planning.start(workers=2)
    slow = [
        await planning.accept("push", push("b" * 40, full_name="octo/slow"), repository="octo/slow")
        for _ in range(10)
    ]
    for _ in range(3):
        record, _, _ = await planning.push(sha)
        assert record.state == "planned"
    assert {(await planning.ledger.delivery(id)).state for id in slow} == {"pending"}


async def test_a_parser_that_dies_between_plan_and_hint_loses_no_run(planning):
    """Killed at any point, the next one plans what is pending and nothing twice."""
    sha = planning.origin.commit({"ci.yml": CI})
    id = await planning.accept("push", push(sha))
    for delay in (0.0, 0.01, 0.02, 0.05):
        scope, ended = await planning.start()
        await trio.sleep(delay)
        scope.cancel()
        await ended.wait()
    await planning.start()
    await planning.settled(id)
    assert [run.delivery for run in await planning.ledger.runs(10)] == [id]


async def test_a_delivery_that_ends_daemon_after_daemon_is_rejected(planning, monkeypatch):
    """One that was being planned in every daemon that died is taken for the cause; its neighbour is not."""
    monkeypatch.setattr(parser, "LIVES", 3)
    reached = trio.Event()
    real = planning.mirrors.workflow_files
    sha = planning.origin.commit({"ci.yml": CI})
    deadly_sha = planning.origin.commit({"ci.yml": CI + "# deadly\n"})

    async def deadly(repository, commit, *folder):
        if commit == deadly_sha:
            reached.set()
            await trio.sleep_forever()
        return await real(repository, commit, *folder)

    monkeypatch.setattr(planning.mirrors, "workflow_files", deadly)
    bad, good = await planning.accept("push", push(deadly_sha)), await planning.accept("push", push(sha))
    for _ in range(3):
        reached = trio.Event()
        scope, ended = await planning.start(workers=1)
        with trio.fail_after(PATIENCE):
            await reached.wait()
        scope.cancel()
        await ended.wait()
    assert (await planning.ledger.delivery(bad)).state == "pending"
    await planning.start(workers=1)
    record = await planning.settled(bad)
    assert record.state == "rejected"
    assert record.reason.startswith("3 daemons ended while they planned it")
    assert (await planning.settled(good)).state == "planned"


def test_choosing_what_to_plan():
    """The oldest of each repository, but of none that is busy, and nothing before its time."""
    backlog = [("a", "x"), ("b", "x"), ("c", "y"), ("d", "z"), ("e", "w")]
    assert choose(backlog, set(), {}, 0.0, 9) == {"x": ["a", "b"], "y": ["c"], "z": ["d"], "w": ["e"]}
    assert choose(backlog, set(), {}, 0.0, 2) == {"x": ["a", "b"], "y": ["c"]}
    assert choose(backlog, {"x"}, {}, 0.0, 2) == {"y": ["c"], "z": ["d"]}
    assert choose(backlog, set(), {"a": 5.0, "c": 5.0}, 4.0, 2) == {"x": ["b"], "z": ["d"]}
    assert choose(backlog, set(), {"a": 5.0}, 5.0, 1) == {"x": ["a", "b"]}
    assert choose([(str(n), "x") for n in range(TURN + 9)], set(), {}, 0.0, 1) == {
        "x": [str(n) for n in range(TURN)]
    }


class EmptyBacklog:
    """A ledger in which nothing waits; it counts how often somebody looks."""

    def __init__(self):
        self.looks = 0

    async def backlog(self, limit):
        await trio.lowlevel.checkpoint()
        self.looks += 1
        return []


@pytest.mark.parametrize(("pause", "looks"), [(0.01, range(9, 25)), (0.02, range(490, 510))])
async def test_in_a_rush_there_is_a_look_each_second(pause, looks, nursery, autojump_clock):
    """A hundred deliveries a second are a rush, though each is heard of alone; fifty are looked at each."""
    ledger, mailbox = EmptyBacklog(), Mailbox(1)
    actor = ParserActor(
        mailbox, ledger=ledger, workers=1, planner=None, part=None, executor=None, reporter=None
    )
    await nursery.start(actor.run)
    for _ in range(round(10 / pause)):
        await mailbox.send(DeliveryAccepted("d"))
        await trio.sleep(pause)
    assert ledger.looks in looks
    mailbox.close()


async def test_a_rush_puts_planning_off_but_not_for_long(nursery, autojump_clock):
    """While deliveries pour in planning waits, a second at most; without a rush it does not wait at all."""
    nothing = dict.fromkeys(("ledger", "planner", "part", "executor", "reporter"))
    mailbox = Mailbox(1)
    actor = ParserActor(mailbox, workers=1, **nothing)
    nursery.start_soon(actor._read_mailbox)

    async def pour() -> None:
        while True:
            await mailbox.send(DeliveryAccepted("d"))
            await trio.sleep(0.001)

    began = trio.current_time()
    await actor._let_a_rush_pass()
    assert trio.current_time() == began
    nursery.start_soon(pour)
    await trio.sleep(0.05)
    began = trio.current_time()
    await actor._let_a_rush_pass()
    assert trio.current_time() - began == parser.PATIENCE
    nursery.cancel_scope.cancel()
