"""The step that keeps why no machine of a job was kept."""

from runnerd.store.migrations import v0009_not_kept as this


def test_it_follows_the_journal_of_machines():
    """No step is left out."""
    assert (this.down_revision, this.revision) == ("0008", "0009")
