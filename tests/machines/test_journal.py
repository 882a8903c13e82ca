"""Notes on machines."""

import msgspec
import pytest

from runnerd.machines.journal import MachineNote, unwritten


async def test_a_note_is_a_fact_and_may_go_unwritten():
    """A note cannot be changed once told; a driver without a journal tells nobody."""
    note = MachineNote(id="default-1", driver="qemu", image="default", state="starting")
    assert (note.pid, note.uid, note.started) == (None, None, 0.0)
    with pytest.raises(AttributeError):
        note.state = "gone"
    assert await unwritten(note) is None
    assert msgspec.json.decode(msgspec.json.encode(note), type=MachineNote) == note
