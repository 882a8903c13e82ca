"""What is kept of jobs' machines: found again whole, bounded, never removed while in use."""

from __future__ import annotations

import os
from pathlib import PosixPath

import pytest

from runnerd.machines import kept, sealed
from runnerd.machines.driver import NotKept
from runnerd.machines.kept import KeptMachines, before_failure, make_key, way_back
from runnerd.machines.quota import Limits
from runnerd.machines.sealed import Unsealed


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    return KeptMachines(tmp_path / "kept", Limits(), clock=clock)


def keep(store, job, step, *, size=10, encrypted=False, standing=b"how it stood", repository="o/r"):
    """Keep a machine of so many bytes."""
    new = store.place(job, step)
    new.mkdir()
    (new / "memory").write_bytes(b"m" * size)
    about = {"run": 7, "job": job, "step": step, "name": f"Step {step}", "repository": repository}
    return store.put(new, standing, encrypted=encrypted, **about)


def steps(found):
    return [(each.job, each.step) for each in found]


def test_what_was_kept_is_found_with_all_that_is_known(store):
    """By job and step, also by whoever opens the folder next."""
    keep(store, 2, 3)
    keep(store, 2, 2)
    keep(store, 12, 2)
    again = KeptMachines(store.folder, Limits(), clock=lambda: 0.0)
    again.tidy()
    assert steps(again.all()) == [(2, 2), (2, 3), (12, 2)]
    assert steps(again.of(2)) == [(2, 2), (2, 3)]
    found = again.find(2, 3)
    assert (found.run, found.job, found.step, found.name) == (7, 2, 3, "Step 3")
    assert found.bytes >= 10
    assert again.standing(found) == b"how it stood"
    assert again.find(2, 4) is None
    assert again.of(99) == ()


def test_the_way_back_names_both_commands(store):
    """With the run, the job and the step."""
    said = way_back(keep(store, 2, 3))
    assert "before step 3 (Step 3)" in said
    assert "`runnerd shell 7 --job 2 --at 3`" in said
    assert "`runnerd rerun 7 --job 2 --from 3`" in said


@pytest.mark.parametrize(("failed", "step"), [(3, 2), (4, 4), (9, 5), (1, 5), (None, 5)])
def test_who_looks_into_a_failure_goes_back_to_before_it(store, failed, step):
    """Or as near before it as there is; the newest where all is of later, or no step failed."""
    kept = [keep(store, 1, each) for each in (2, 4, 5)]
    assert before_failure(kept, failed).step == step


def test_a_machine_kept_again_takes_the_earlier_ones_place(store):
    """There is one of before each step."""
    keep(store, 1, 2, standing=b"first")
    keep(store, 1, 2, standing=b"second")
    assert store.standing(store.find(1, 2)) == b"second"


def test_what_is_not_whole_is_no_machine_and_goes_at_the_start(store):
    """A write that was cut off, harmed notes, folders of another name, an earlier version's."""
    keep(store, 1, 2)
    keep(store, 1, 3)
    (store.folder / "job-1/step-03/kept.json").write_bytes(b"{")
    store.place(1, 4).mkdir()
    keep(store, 5, 2)
    (store.folder / "job-5").rename(store.folder / "job-6")
    (store.folder / "job-9").mkdir()
    (store.folder / "other").mkdir()
    (store.folder / "job-10").write_text("a file")
    (store.folder / "job-1/snapshot.json").write_text("an earlier version's")
    assert steps(store.all()) == [(1, 2)]
    store.tidy()
    assert sorted(path.name for path in store.folder.iterdir()) == ["job-1"]
    assert [path.name for path in (store.folder / "job-1").iterdir()] == ["step-02"]


def test_nothing_kept_is_no_trouble(store):
    """The folder need not be there."""
    store.tidy()
    store.drop(1)
    assert store.all() == store.sweep() == ()


def test_a_job_drops_what_it_names_and_what_is_not_in_use(store):
    """Its folder goes with the last."""
    for step in (2, 3, 4):
        keep(store, 1, step)
    store.drop(1, but=(3,))
    assert steps(store.of(1)) == [(1, 3)]
    with store.held(store.find(1, 3).folder):
        store.drop(1)
        assert steps(store.of(1)) == [(1, 3)]
    store.drop(1)
    assert not list(store.folder.iterdir())


def test_the_limits_hold_after_each_that_is_kept(tmp_path, clock):
    """The oldest go first; the one just kept and those in use do not."""
    store = KeptMachines(tmp_path / "kept", Limits(count=2), clock=clock)
    first = keep(store, 1, 2)
    with store.held(first.folder):
        keep(store, 2, 2)
        keep(store, 3, 2)
        assert steps(store.all()) == [(1, 2), (3, 2)]
    keep(store, 4, 2)
    assert steps(store.all()) == [(3, 2), (4, 2)]


def test_what_is_too_old_goes_by_the_sweep(store, clock):
    """After the time that is configured."""
    keep(store, 1, 2)
    clock.now += store.limits.age
    assert steps(store.sweep()) == [(1, 2)]
    assert not list(store.folder.iterdir())


def test_room_is_what_all_limits_leave(tmp_path, clock, monkeypatch):
    """That of one machine, of the quota without what is in use, and of the disk without its reserve."""
    store = KeptMachines(tmp_path / "kept", Limits(limit=5000, disk=6000, count=3), clock=clock)
    assert store.room(1, "o/r") == 5000
    big = keep(store, 2, 2, size=4000)
    assert store.room(1, "o/r") == 5000
    with store.held(big.folder):
        assert 1000 < store.room(1, "o/r") < 2000
        assert store.room(2, "o/r") == 5000
    usage = os.statvfs_result
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda _: usage((0,) * 10) and Usage(sealed.RESERVE + 70))
    assert store.room(1, "o/r") == 70
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda _: Usage(sealed.RESERVE))
    with pytest.raises(NotKept, match="nearly full"):
        store.room(1, "o/r")


class Usage:
    def __init__(self, free):
        self.free = free


def test_there_is_no_room_where_all_is_in_use(tmp_path, clock):
    """As many as are allowed are kept already, and none may go."""
    store = KeptMachines(tmp_path / "kept", Limits(count=1), clock=clock)
    with store.held(keep(store, 1, 2).folder), pytest.raises(NotKept, match="in use"):
        store.room(2, "o/r")


def test_how_a_job_stood_is_encrypted_with_its_machine(tmp_path, clock):
    """It is read with the key alone, and not when it was harmed."""
    key = tmp_path / "key"
    make_key(key)
    make_key(key)
    assert key.stat().st_mode & 0o777 == 0o600
    store = KeptMachines(tmp_path / "kept", Limits(), clock=clock, key_file=key, seals=True)
    found = keep(store, 1, 2, encrypted=True, standing=b"open sesame")
    assert found.encrypted
    assert b"sesame" not in (found.folder / "standing").read_bytes()
    assert store.standing(found) == b"open sesame"
    key.write_bytes(os.urandom(32))
    with pytest.raises(Unsealed, match="another key"):
        store.standing(found)
    key.write_bytes(b"short")
    with pytest.raises(Unsealed, match="5 bytes"):
        store.standing(found)
    without = KeptMachines(tmp_path / "kept", Limits(), clock=clock)
    with pytest.raises(Unsealed, match="names no key"):
        without.standing(found)


@pytest.mark.parametrize(("mode", "owner"), [(0o640, 0), (0o604, 0), (0o600, 4242)])
def test_a_key_that_is_not_its_owners_alone_is_no_key(tmp_path, clock, mode, owner):
    """Whoever may read it can read what it encrypts; the sentence says the cure."""
    key = tmp_path / "key"
    make_key(key)
    key.chmod(mode)
    if owner:
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(key, owner, -1)
    store = KeptMachines(tmp_path / "kept", Limits(), clock=clock, key_file=key, seals=True)
    with pytest.raises(OSError, match="chown" if owner else "chmod 600"):
        store.key()


def test_how_a_job_stood_is_not_read_when_it_was_harmed(store):
    """Or is gone; the sentence says whose it was."""
    found = keep(store, 1, 2)
    (found.folder / "standing").write_bytes(b"how it stands")
    with pytest.raises(Unsealed, match=r"job 1 stood before step 2 .* not what was written"):
        store.standing(found)
    store.drop(1)
    with pytest.raises(Unsealed, match="job 1 stood before step 2"):
        store.standing(found)


def test_others_hold_and_let_go_while_the_limits_are_kept(store):
    """Threads of other jobs come between at any point, here whenever what is held is looked at."""
    others = []

    class Folder(PosixPath):
        def __hash__(self):
            if len(others) < 100:
                others.append(store.folder / f"other-{len(others)}")
                store._held[others[-1]] += 1
            return super().__hash__()

    mine = keep(store, 1, 2)
    with store.held(Folder(mine.folder)), store.held(Folder(store.folder)):
        assert store.sweep() == ()
        assert len(others) > 2


def test_what_a_job_waits_for_is_removed_by_no_limit(tmp_path, clock):
    """Neither for want of room nor for its age, nor at a start; and nothing is kept in its place."""
    awaited = {"1/2", "9/9"}
    store = KeptMachines(tmp_path / "kept", Limits(count=1), clock=clock, awaited=lambda: awaited)
    keep(store, 1, 2)
    keep(store, 2, 2)
    assert steps(store.of(1)) == [(1, 2)]
    clock.now += 2 * store.limits.age
    store.tidy()
    assert steps(store.all()) == [(1, 2)]
    with pytest.raises(NotKept, match="in use"):
        store.room(3, "o/r")
    awaited.clear()
    assert steps(store.sweep()) == [(1, 2)]


def test_nothing_goes_where_it_cannot_be_told_what_may(tmp_path, clock):
    """What was just kept is there all the same, and the next sweep has the limits hold."""

    def unknown():
        raise OSError("the ledger cannot be read")

    store = KeptMachines(tmp_path / "kept", Limits(count=1), clock=clock, awaited=unknown)
    keep(store, 1, 2)
    keep(store, 2, 2)
    with pytest.raises(OSError, match="cannot be read"):
        store.sweep()
    assert steps(store.all()) == [(1, 2), (2, 2)]


def test_what_was_held_while_a_sweep_goes_on_stays(tmp_path, clock):
    """Also when it is let go before the sweep comes to it: meanwhile it may have come to be awaited."""

    def passing():
        with store.held(store.named("1/2")):
            return ()

    store = KeptMachines(tmp_path / "kept", Limits(), clock=clock)
    keep(store, 1, 2)
    keep(store, 1, 3)
    clock.now += 2 * store.limits.age
    store._awaited = passing
    assert steps(store.sweep()) == [(1, 3)]
    assert not store._spared
    store._awaited = frozenset
    assert steps(store.sweep()) == [(1, 2)]


def test_one_repository_takes_no_place_of_anothers(tmp_path, clock):
    """Who keeps the most loses its oldest first, and no single machine takes what others have a share in."""
    store = KeptMachines(tmp_path / "kept", Limits(count=3, disk=9000), clock=clock)
    keep(store, 1, 2, repository="o/quiet", size=3000)
    for job in range(2, 9):
        keep(store, job, 2, repository="o/busy")
    assert steps(store.all()) == [(1, 2), (7, 2), (8, 2)]
    assert 5000 < store.room(9, "o/busy") < 6000
