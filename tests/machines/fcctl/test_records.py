"""What was asked of the service, on disk."""

from __future__ import annotations

from pathlib import Path

from runnerd.machines.fcctl.records import Record, Records


def test_records_are_kept_until_dropped(tmp_path: Path) -> None:
    """A record is there for the next daemon, with the machine's name once it is known."""
    records = Records(tmp_path / "fcctl")
    assert records.all() == []
    records.write(Record(name="a", asked=1.0))
    records.write(Record(name="b", asked=2.0))
    records.write(Record(name="a", vm="vm-1", asked=1.0))
    assert Records(tmp_path / "fcctl").all() == [
        Record(name="a", vm="vm-1", asked=1.0),
        Record(name="b", asked=2.0),
    ]
    records.drop("a")
    records.drop("a")
    assert [record.name for record in records.all()] == ["b"]


def test_cut_off_record_is_none(tmp_path: Path) -> None:
    """A file that is no record is removed, and stops nobody."""
    (tmp_path / "x.json").write_bytes(b"{")
    assert Records(tmp_path).all() == []
    assert list(tmp_path.iterdir()) == []
