"""Which part of a run is to run again: what a person asked for, with all that needs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from runnerd.jobs.sequence import placed
from runnerd.model import JobRecord, Outcome, Phase, RunRecord
from runnerd.planning.kept import Kept, KeptOf, kept_of, why_none
from runnerd.planning.newest import counterpart, the_one
from runnerd.planning.reread import reread
from runnerd.reading.process import Reader
from runnerd.store.changes import UNEXPANDED, Again, NewJob
from runnerd.store.ledger import Ledger
from runnerd.workflow.again import dependents
from runnerd.workflow.calls import Scope, callers_of, scope_of
from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.meant import Named, Unclear, meant
from runnerd.workflow.model import Call, WorkflowErrors


class CannotRerun(Exception):
    """A part of a run cannot be run again; the sentence says why, and what can be done."""


class NotYet(CannotRerun):
    """The same until the newest attempt has ended, in which the job is as it ended before."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is to run again: a job, from its start or from a step, or all jobs that did not succeed."""

    job: str = ""
    """Its number, its name or its key; empty: all that did not succeed."""
    step: str = ""
    """The number, the id or the shown name of the step to go on from; empty: from the start."""
    also: tuple[int, ...] = ()
    """The numbers of more jobs, of any attempts; what of them cannot run again beside it is left out."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What is to run again, for the ledger and for people."""

    run: int
    """The attempt whose jobs these are: the newest."""
    again: Again
    said: str
    also: frozenset[int] = frozenset()
    """Those of `Wish.also` that are in it."""


async def part_of(
    run: RunRecord,
    wish: Wish,
    *,
    ledger: Ledger,
    reader: Reader,
    kept: KeptOf[Kept],
    mode: str = "on-failure",
) -> Part:
    """Find out what a wish comes to in the newest attempt of a run, where [snapshots] has this `mode`.

    Who names a job of an earlier attempt means what stands for it in the newest, as long as that is clear.
    Raises `CannotRerun`.
    """
    named = run
    run = await ledger.newest_attempt(run.id)
    rows = await ledger.jobs(run.id)
    old = the_one(wish.job, rows if run.id == named.id else await ledger.jobs(named.id))
    if run.phase is not Phase.DONE:
        raise _not_now(run, old, rows)
    if run.id != named.id:
        wish = _now(named, run, wish, old, rows)
    calls = await ledger.calls(run.id)
    try:
        workflow = await reread(run, ledger=ledger, reader=reader)
    except WorkflowErrors as errors:
        raise CannotRerun(
            f"this version cannot read the workflow of run {run.id} any more: {errors}"
        ) from None
    made: dict[str, tuple[Call, ...]] = {}
    for call in calls:
        made[call.key] = (*made.get(call.key, ()), call)
    whole = Scope(workflow=workflow, contexts={})
    chosen = _chosen(run, rows, made, wish)
    beside = await _beside(run, rows, wish, ledger)
    chosen += [row for row in beside.values() if row.id not in {each.id for each in chosen}]
    resumes: dict[int, str] = {}
    said = ", ".join(row.name for row in chosen) if chosen else wish.job
    if wish.step:
        row = _alone(chosen, wish)
        scope, id = scope_of(whole, made, row.key)
        steps = _steps(scope, id, row)
        step = _step(row, steps, wish.step)
        if step.number > 1:
            resumes[row.id] = await _kept_before(run, row, step, ledger, kept, mode)
            if old is not None and run.id != named.id:
                await _same_machine(old, row, step, resumes[row.id], ledger, kept)
        said = f"{row.name} from step {step.number} ({step.name})"
    anew = _anew(whole, made, rows, chosen, wish)
    again = frozenset(row.id for row in chosen if not any(each in anew for each in callers_of(row.key)))
    others = [
        name for key, name in anew.items() if key != wish.job and key not in {row.key for row in chosen}
    ]
    return Part(
        run=run.id,
        again=Again(
            jobs=again,
            anew=tuple(NewJob(key=key, leg=UNEXPANDED, name=name) for key, name in anew.items()),
            resumes=resumes,
        ),
        said=said + (f", and what needs it: {', '.join(others)}" if others else ""),
        also=frozenset(beside),
    )


def _not_now(run: RunRecord, old: JobRecord | None, rows: Sequence[JobRecord]) -> CannotRerun:
    """Why no job runs again in a run that has not ended: for good, where the one that is meant does so."""
    now = None if old is None else counterpart(old, rows)
    if now is not None and now.phase is Phase.DONE:
        return NotYet(f"run {run.id} is {run.phase}: jobs of it can run again when it has ended")
    return CannotRerun(f"run {run.id} is {run.phase}: jobs of it can run again when it has ended")


async def _beside(
    run: RunRecord, rows: Sequence[JobRecord], wish: Wish, ledger: Ledger
) -> dict[int, JobRecord]:
    """What the jobs in `Wish.also` are in the newest attempt, for those that can run again in the next."""
    found = {}
    for number in wish.also:
        job = await ledger.job(number)
        if job is None or (await ledger.newest_attempt(job.run)).id != run.id:
            continue
        row = counterpart(job, rows)
        if row is not None and row.outcome is not Outcome.SKIPPED:
            found[number] = row
    return found


def _now(
    named: RunRecord, newest: RunRecord, wish: Wish, old: JobRecord | None, rows: Sequence[JobRecord]
) -> Wish:
    """What a wish about an earlier attempt, whose job `old` it names, is in the newest with these jobs."""
    said = f"run {named.id} is attempt {named.attempt}, and jobs of the newest one alone can be run again"
    if not wish.job:
        raise CannotRerun(f"{said}: that is run {newest.id}, attempt {newest.attempt}")
    if old is None:
        return wish  # a name that is the same in each attempt, or nothing in any
    now = counterpart(old, rows)
    if now is None:
        raise CannotRerun(
            f"{said}: run {newest.id}, attempt {newest.attempt}, has no job that is {old.id} ({old.name})"
        )
    return Wish(job=str(now.id), step=wish.step)


async def _same_machine(
    old: JobRecord, row: JobRecord, step: Named, resumes: str, ledger: Ledger, kept: KeptOf[Kept]
) -> None:
    """Refuse to go on as a job was kept that has run again, where the earlier attempt's was kept otherwise.

    What began as the earlier one was kept before this step is the same as that one.
    """
    before = (await kept_of(old, ledger=ledger, kept=kept)).get(step.number)
    if before is not None and f"{before.job}/{before.step}" not in (resumes, row.resumes):
        raise CannotRerun(
            f"job {old.id} ({old.name}) of run {old.run} has run again since, as job {row.id} of run "
            f"{row.run}, and another machine is kept of that from before step {step.number}: "
            f"`runnerd rerun {row.run} --job {row.id} --from {step.number}` goes on in it"
        )


def _chosen(
    run: RunRecord, rows: Sequence[JobRecord], made: Mapping[str, object], wish: Wish
) -> list[JobRecord]:
    """The rows that are meant; none where a job is that has made its calls."""
    if not wish.job:
        bad = [row for row in rows if row.outcome is None or not row.outcome.green]
        if not bad:
            raise CannotRerun(f"no job of run {run.id} failed: `runnerd rerun {run.id}` runs all of it again")
        return bad
    if wish.job in made:
        return []
    try:
        number = meant(
            wish.job, [Named(row.id, row.key, row.name) for row in rows], what="job", whole=f"run {run.id}"
        ).number
        found = [row for row in rows if row.id == number]
    except Unclear as unclear:
        found = [row for row in rows if row.key == wish.job]
        if not found:
            raise CannotRerun(str(unclear)) from None
    for row in found:
        if row.outcome is Outcome.SKIPPED:
            why = row.reason or "its `if` is false"
            raise CannotRerun(f"job {row.id} ({row.name}) was skipped, and would be again: {why}")
    return found


def _alone(chosen: Sequence[JobRecord], wish: Wish) -> JobRecord:
    if not chosen:
        raise CannotRerun(
            f"{wish.job!r} calls a workflow and has no steps: name one of the jobs it brought in"
        )
    if len(chosen) > 1:
        legs = ", ".join(f"{row.id} ({row.name})" for row in chosen[:30])
        raise CannotRerun(
            f"{wish.job!r} has {len(chosen)} legs, each with steps of its own: choose of {legs}"
        )
    return chosen[0]


def _steps(scope: Scope, id: str, row: JobRecord) -> list[Named]:
    """The steps of a job as people were shown them."""
    named = {step.number: step.name for step in row.steps}
    found = []
    for each in placed(scope.workflow.jobs[id].steps):
        name = named.get(each.number) or to_text(each.step.name or each.action)
        found.append(Named(each.number, each.step.id or "", name))
    return found


def _step(row: JobRecord, steps: Sequence[Named], wanted: str) -> Named:
    try:
        return meant(wanted, steps, what="step", whole=f"job {row.id} ({row.name})")
    except Unclear as unclear:
        raise CannotRerun(str(unclear)) from None


async def _kept_before(
    run: RunRecord,
    row: JobRecord,
    step: Named,
    ledger: Ledger,
    kept: KeptOf[Kept],
    mode: str,
) -> str:
    """Where the machine is kept as it was before a step: `JOB/STEP`."""
    there = await kept_of(row, ledger=ledger, kept=kept)
    if found := there.get(step.number):
        return f"{found.job}/{found.step}"
    said = f"no machine of job {row.id} ({row.name}) is kept from before step {step.number} ({step.name})"
    if there:
        choices = ", ".join(f"{number} ({each.name})" for number, each in there.items())
        raise CannotRerun(f"{said}: there are those from before {choices}")
    why = why_none(run, row, mode)
    raise CannotRerun(
        f"{said}, nor from before any other: {why}; without --from it runs again from its start"
    )


def _anew(
    whole: Scope,
    made: Mapping[str, tuple[Call, ...]],
    rows: Iterable[JobRecord],
    chosen: Sequence[JobRecord],
    wish: Wish,
) -> dict[str, str]:
    """The jobs that are made anew, by key with their names: who needs what was chosen, and what has no legs.

    What a job among them has called is not named: it goes with its caller.
    """
    found: dict[str, str] = {}
    for key in dict.fromkeys(row.key for row in chosen) or (wish.job,):
        scope, id = scope_of(whole, made, key)
        found |= dependents(scope, id)
        if not chosen or any(row.leg == UNEXPANDED for row in chosen if row.key == key):
            found[key] = scope.named(id)
    there = {row.key for row in rows} | set(made)
    return {
        key: name
        for key, name in found.items()
        if key in there and not any(caller in found for caller in list(callers_of(key))[:-1])
    }
