"""The step that lets runs wait for approval."""

from runnerd.store.migrations import v0004_approvals as this


def test_it_follows_the_schedules():
    """No step is left out."""
    assert (this.down_revision, this.revision) == ("0003", "0004")
