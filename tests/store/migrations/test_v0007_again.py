"""The step that lets a part of a run be run again."""

from runnerd.store.migrations import v0007_again as this


def test_it_follows_the_pause():
    """No step is left out."""
    assert (this.down_revision, this.revision) == ("0006", "0007")
