"""What keeps a job from being run, and how its texts are stored. Pure."""

from __future__ import annotations

from runnerd.jobs.spec import JobSpec


def unrunnable(spec: JobSpec) -> str:
    """Return why a job cannot be started here as it is written; empty when it can."""
    job = spec.job
    if job.uses is not None:
        return "the job calls a reusable workflow, which has to be planned as jobs of its own"
    if not job.steps:
        return "the job has no steps"
    for key, value in (("container", job.container), ("services", job.services), ("snapshot", job.snapshot)):
        if value:
            return f"the job asks for `{key}`, which cannot be had yet"
    return ""


def joined(summaries: str, limit: int) -> str:
    """Return the summaries, cut visibly where they are longer than `limit` characters together."""
    if len(summaries) <= limit:
        return summaries
    note = f"\n\n*(cut here: the summaries of this job are longer than {limit >> 10} KiB together)*"
    return summaries[: limit - len(note)] + note


def storable(text: str) -> str:
    """Return a text that every database and every encoder takes: no NUL and no half of a surrogate pair."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
