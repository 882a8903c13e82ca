"""The step that lets the pool be paused."""

from runnerd.store.migrations import v0006_pause as this


def test_it_follows_the_graph():
    """No step is left out."""
    assert (this.down_revision, this.revision) == ("0005", "0006")
