"""What a person means in the newest attempt of a run who names an earlier one, or a job of it."""

from __future__ import annotations

from collections.abc import Sequence

from runnerd.model import JobRecord


def counterpart(job: JobRecord, newest: Sequence[JobRecord]) -> JobRecord | None:
    """Return what stands for a job among those of a newer attempt: as it was carried over, or run again.

    None where there is nothing, or where it is not clear what: one that has no legs there any more.
    """
    carried = [row for row in newest if row.logged == job.logged]
    again = [row for row in newest if (row.key, row.leg, row.legs) == (job.key, job.leg, job.legs)]
    found = carried or again
    return found[0] if len(found) == 1 else None


def the_one(wanted: str, rows: Sequence[JobRecord]) -> JobRecord | None:
    """Return the one job called so, by number, else by name, else by key; None for none and for several."""
    by_number = [row for row in rows if str(row.id) == wanted]
    by_name = [row for row in rows if row.name == wanted]
    found = by_number or by_name or [row for row in rows if row.key == wanted]
    return found[0] if len(found) == 1 else None
