"""What there is to run."""

from runnerd.jobs.spec import JobLimits, JobSpec


def test_limits_are_githubs_where_github_has_them(bench):
    """1 MiB of summary and of outputs, ten annotations of a kind, six hours, five minutes to clean up."""
    spec: JobSpec = bench.spec("on: push\njobs: {a: {runs-on: x, steps: [{run: x}]}}")
    assert (spec.default_timeout_minutes, spec.cancel_minutes) == (360, 5)
    assert spec.limits == JobLimits(summary=1 << 20, outputs=1 << 20, annotations=10)
