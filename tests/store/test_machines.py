"""The journal knows every machine that may exist, and nothing about one that is gone."""

import msgspec

from runnerd.store import machines
from runnerd.store.records import MachineRow

ROW = MachineRow(id="m1", driver="qemu", image="default", state="starting", pid=None, uid=5001, started=2.0)


def test_a_machine_is_noted_before_it_has_a_process(desk):
    """The first note needs no pid; later notes write over it."""
    machines.note(desk.connection, ROW)
    assert machines.journal(desk.connection) == [ROW]
    leased = msgspec.structs.replace(ROW, state="leased", pid=77, job=3, epoch=1)
    machines.note(desk.connection, leased)
    assert machines.journal(desk.connection) == [leased]


def test_forgetting(desk):
    """A machine that is gone is forgotten, as often as it is asked."""
    machines.note(desk.connection, ROW)
    older = msgspec.structs.replace(ROW, id="m0", started=1.0)
    machines.note(desk.connection, older)
    assert [row.id for row in machines.journal(desk.connection)] == ["m0", "m1"]
    machines.forget(desk.connection, "m1")
    machines.forget(desk.connection, "m1")
    assert machines.journal(desk.connection) == [older]
