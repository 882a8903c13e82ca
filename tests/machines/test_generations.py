"""Generations on disk: which there are, which are whole, and which may go."""

import fcntl
import hashlib
import os
import shutil

import msgspec
import pytest

from runnerd.machines import generations, images
from runnerd.machines.generation_trial import Standing, Trial
from runnerd.machines.generations import InUse


@pytest.fixture
def made(tmp_path):
    """Makes a generation of the image `default` and points `current` at it."""
    (tmp_path / "default").mkdir()
    (tmp_path / "default/.lock").touch()

    def make(content):
        digest = hashlib.sha256(content).hexdigest()
        parts = {part: images.Part(sha256=digest, size=len(content), inputs="") for part in images.FILES}
        name = images.Image(name="default", digest="", path=tmp_path, parts=parts).content_digest
        path = tmp_path / "default" / name
        path.mkdir()
        for part in parts:
            (path / part).write_bytes(content)
        (path / "manifest.json").write_bytes(msgspec.json.encode(parts))
        at = len(list((tmp_path / "default").iterdir()))
        os.utime(path, (at, at))
        (tmp_path / "default/current").unlink(missing_ok=True)
        (tmp_path / "default/current").symlink_to(name)
        return path

    return make


def test_the_current_one_comes_first_and_then_the_newest(tmp_path, made):
    """Order is by `current`, then by age; what is no generation is left out."""
    paths = [made(content) for content in (b"1", b"2", b"3")]
    (tmp_path / "default/current").unlink()
    (tmp_path / "default/current").symlink_to(paths[0].name)
    (tmp_path / "default/.building-x").mkdir()
    found = generations.all_of(tmp_path, "default")
    assert [each.path for each in found] == [paths[0], paths[2], paths[1]]
    assert [each.current for each in found] == [True, False, False]
    assert generations.names(tmp_path) == ("default",)
    assert generations.all_of(tmp_path, "absent") == ()


def test_one_that_goes_while_it_is_looked_at_is_left_out(tmp_path, made, monkeypatch):
    """A build removes old generations without asking who looks: the others are told of all the same."""
    paths = [made(content) for content in (b"1", b"2", b"3")]

    def meanwhile(home, newest):
        shutil.rmtree(paths[0])

    monkeypatch.setattr(generations, "_open_trial", meanwhile)
    assert [each.path for each in generations.all_of(tmp_path, "default")] == [paths[2], paths[1]]


def test_faults_are_found_by_content_and_by_name(tmp_path, made):
    """A changed byte, a missing file and a manifest of another image are each named."""
    path = made(b"1")
    (one,) = generations.all_of(tmp_path, "default")
    assert generations.faults(one) == ()
    other = made(b"2")
    (path / "manifest.json").write_bytes((other / "manifest.json").read_bytes())
    for part in images.FILES:
        (path / part).write_bytes(b"2")
    assert "of another image" in generations.faults(one)[0]
    (path / "kernel").write_bytes(b"3")
    assert "kernel has the digest" in generations.faults(one)[0]
    (path / "kernel").unlink()
    assert generations.faults(one) != ()


def test_what_a_process_has_open_stays(tmp_path, made):
    """A machine holds its image's files open: removing is refused and pruning passes over it."""
    path, _ = made(b"1"), made(b"2")
    with (path / "rootfs").open("rb"):
        with pytest.raises(InUse, match=f"in use by process {os.getpid()}"):
            generations.remove(tmp_path, "default", path.name[:12], configured=True)
        assert generations.prune(tmp_path, "default", keep=0) == ()
    assert [each.path for each in generations.prune(tmp_path, "default", keep=0)] == [path]
    assert not path.exists()


def test_prune_keeps_as_many_as_asked(tmp_path, made):
    """The oldest go first, and the current one is not counted."""
    paths = [made(content) for content in (b"1", b"2", b"3", b"4")]
    assert [each.path for each in generations.prune(tmp_path, "default", keep=2)] == [paths[0]]
    assert [path.exists() for path in paths] == [False, True, True, True]


def test_remove_refuses_what_is_configured_and_what_is_being_built(tmp_path, made):
    """The current generation of a configured image stays; so does everything during a build."""
    path = made(b"1")
    with pytest.raises(InUse, match="boot from"):
        generations.remove(tmp_path, "default", configured=True)
    with (tmp_path / "default/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InUse, match="being built"):
            generations.remove(tmp_path, "default", configured=False)
    with pytest.raises(LookupError):
        generations.remove(tmp_path, "default", "f" * 64, configured=False)
    assert path.exists()
    assert [each.path for each in generations.remove(tmp_path, "default", configured=False)] == [path]
    assert not (tmp_path / "default").exists()


def test_going_back_is_to_the_newest_that_is_whole(tmp_path, made):
    """The one before becomes current and the newer one stays; a damaged one is passed over."""
    first, second, third = made(b"1"), made(b"2"), made(b"3")
    (second / "rootfs").write_bytes(b"x")
    assert generations.go_back(tmp_path, "default").path == first
    newest = images.current(tmp_path)
    assert newest is not None
    assert newest.path == first
    assert third.exists()
    generations.prune(tmp_path, "default", keep=0)
    with pytest.raises(LookupError):
        generations.go_back(tmp_path, "default")


def on_trial(images_folder, digest, before, **counts):
    """Put the trial of a generation on record, as a build does."""
    trial = Trial(digest=digest, before=before, **counts)
    images.write_trial(images_folder / "default", trial)
    return trial


def test_a_generation_on_trial_is_known_by_its_record(tmp_path, made):
    """It is current, the one before serves, and without a way back there is no trial."""
    first, second = made(b"1"), made(b"2")
    assert generations.standing(tmp_path, "default") == Standing(current=second.name)
    trial = on_trial(tmp_path, second.name, first.name, good=1)
    assert generations.standing(tmp_path, "default") == Standing(current=second.name, trial=trial)
    assert [each.standing for each in generations.all_of(tmp_path, "default")] == ["on trial", "serving"]
    (first / "manifest.json").unlink()
    assert generations.standing(tmp_path, "default") == Standing(current=second.name)
    assert generations.standing(tmp_path, "absent") is None


def test_a_trial_that_passed_leaves_a_current_and_an_older_one(tmp_path, made):
    """Its end is on record, so that the next start puts nothing on trial again."""
    first, second = made(b"1"), made(b"2")
    trial = on_trial(tmp_path, second.name, first.name)
    generations.settle(tmp_path, "default", msgspec.structs.replace(trial, good=3, ended="passed"))
    assert generations.standing(tmp_path, "default") == Standing(current=second.name)
    assert [each.standing for each in generations.all_of(tmp_path, "default")] == ["current", "older"]


def test_a_trial_that_failed_goes_back_and_says_why(tmp_path, made):
    """The one before is current at once, once, and the reason stays until a newer one is there."""
    first, second = made(b"1"), made(b"2")
    trial = msgspec.structs.replace(
        on_trial(tmp_path, second.name, first.name), bad=2, reason="it panicked", ended="failed"
    )
    for _ in range(2):
        generations.settle(tmp_path, "default", trial)
        assert generations.standing(tmp_path, "default") == Standing(current=first.name, failed=trial)
    assert [each.standing for each in generations.all_of(tmp_path, "default")] == ["current", "went back"]
    third = made(b"3")
    assert generations.standing(tmp_path, "default") == Standing(current=third.name)


def test_what_was_decided_of_one_generation_does_nothing_to_a_later_one(tmp_path, made):
    """A build in between wins; while it goes on nothing is written."""
    first, second = made(b"1"), made(b"2")
    overtaken = on_trial(tmp_path, second.name, first.name)
    failed = msgspec.structs.replace(overtaken, ended="failed")
    with (tmp_path / "default/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InUse, match="being built"):
            generations.settle(tmp_path, "default", failed)
    third = made(b"3")
    later = on_trial(tmp_path, third.name, first.name)
    generations.settle(tmp_path, "default", failed)
    assert generations.standing(tmp_path, "default") == Standing(
        current=third.name, trial=later, overtaken=(overtaken,)
    )


def test_what_has_passed_is_written_while_a_build_goes_on(tmp_path, made):
    """Or what is built would go back to the one before it, and the one that serves would go from the disk."""
    first, second = made(b"1"), made(b"2")
    passed = msgspec.structs.replace(on_trial(tmp_path, second.name, first.name), good=3, ended="passed")
    with (tmp_path / "default/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        generations.settle(tmp_path, "default", passed)
    assert generations.standing(tmp_path, "default") == Standing(current=second.name)


def test_what_has_passed_is_written_although_another_followed(tmp_path, made):
    """The other goes back to it then; it waits for a build, which is to see either all of that or nothing."""
    first, second, third = made(b"1"), made(b"2"), made(b"3")
    passed = msgspec.structs.replace(on_trial(tmp_path, second.name, first.name), good=3, ended="passed")
    later = on_trial(tmp_path, third.name, first.name, good=1)
    (overtaken,) = generations.standing(tmp_path, "default").overtaken
    assert overtaken.digest == second.name
    with (tmp_path / "default/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InUse, match="being built"):
            generations.settle(tmp_path, "default", passed)
    follows = msgspec.structs.replace(later, before=second.name)
    for _ in range(2):
        generations.settle(tmp_path, "default", passed)
        assert generations.standing(tmp_path, "default") == Standing(current=third.name, trial=follows)
    generations.settle(tmp_path, "default", msgspec.structs.replace(follows, ended="failed"))
    assert generations.standing(tmp_path, "default").current == second.name
    assert generations.standing(tmp_path, "default").trial is None


def test_a_pass_that_is_written_by_half_is_owed_still(tmp_path, made, monkeypatch):
    """The disk fills up in the middle: the rest is written the next time."""
    first, second, third = made(b"1"), made(b"2"), made(b"3")
    passed = msgspec.structs.replace(on_trial(tmp_path, second.name, first.name), ended="passed")
    on_trial(tmp_path, third.name, first.name)
    write, written = generations.write_trial, []

    def write_one(home, trial):
        if written:
            raise OSError(28, "No space left on device")
        written.append(write(home, trial))

    monkeypatch.setattr(generations, "write_trial", write_one)
    with pytest.raises(OSError, match="No space"):
        generations.settle(tmp_path, "default", passed)
    monkeypatch.undo()
    standing = generations.standing(tmp_path, "default")
    assert [each.digest for each in standing.overtaken] == [second.name]
    generations.settle(tmp_path, "default", passed)
    standing = generations.standing(tmp_path, "default")
    assert (standing.trial.before, standing.overtaken) == (second.name, ())


def test_nobody_goes_back_to_one_that_is_not_whole(tmp_path, made):
    """It counts as overtaken only while it is there to go back to."""
    first, second, third = made(b"1"), made(b"2"), made(b"3")
    passed = msgspec.structs.replace(on_trial(tmp_path, second.name, first.name), ended="passed")
    later = on_trial(tmp_path, third.name, first.name)
    (second / "manifest.json").unlink()
    generations.settle(tmp_path, "default", passed)
    assert generations.standing(tmp_path, "default") == Standing(current=third.name, trial=later)


def test_going_back_by_hand_is_to_one_that_proved_itself(tmp_path, made):
    """One that another overtook on its trial is newer, and comes last all the same; it is pruned first."""
    first, second, third = made(b"1"), made(b"2"), made(b"3")
    on_trial(tmp_path, second.name, first.name)
    on_trial(tmp_path, third.name, first.name, ended="passed")
    assert generations.go_back(tmp_path, "default").path == first
    images.point(tmp_path / "default", third.name)
    assert [each.path for each in generations.prune(tmp_path, "default", keep=1)] == [second]


def test_who_serves_during_a_trial_is_neither_removed_nor_pruned(tmp_path, made):
    """Going back by hand is to it, whatever is newer."""
    first, second, third = made(b"1"), made(b"2"), made(b"3")
    on_trial(tmp_path, third.name, first.name)
    with pytest.raises(InUse, match="on trial"):
        generations.remove(tmp_path, "default", first.name, configured=True)
    assert [each.path for each in generations.prune(tmp_path, "default", keep=0)] == [second]
    made(b"2")
    images.point(tmp_path / "default", third.name)
    assert generations.go_back(tmp_path, "default").path == first


def test_the_record_goes_with_its_generation(tmp_path, made):
    """Nothing of a generation that was removed is left."""
    first, second, third = made(b"1"), made(b"2"), made(b"3")
    on_trial(tmp_path, first.name, second.name, ended="failed")
    assert first in [each.path for each in generations.prune(tmp_path, "default", keep=0)]
    assert not list((tmp_path / "default").glob("*.trial"))
    assert third.exists()


async def test_the_pool_reads_and_writes_it_in_threads(tmp_path, made):
    """What stands in the way of writing is an OSError, to be tried again."""
    first, second = made(b"1"), made(b"2")
    trial, records = on_trial(tmp_path, second.name, first.name), generations.Records(tmp_path)
    assert await records.standing("default") == Standing(current=second.name, trial=trial)
    counted = msgspec.structs.replace(trial, good=1)
    with (tmp_path / "default/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="being built"):
            await records.settle("default", counted)
    await records.settle("default", counted)
    assert await records.standing("default") == Standing(current=second.name, trial=counted)
    await records.settle("default", msgspec.structs.replace(counted, ended="passed"))
    assert await records.standing("default") == Standing(current=second.name)


def test_what_was_left_is_cleared_unless_somebody_builds(tmp_path, made):
    """A folder that nobody builds in any more is removed, with no generation; during a build it stays."""
    path, left = made(b"1"), tmp_path / "default/.building-x"
    left.mkdir()
    (left / "rootfs.tar").touch()
    with (tmp_path / "default/.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InUse, match="being built"):
            generations.clear(tmp_path, "default")
    assert (left / "rootfs.tar").exists()
    assert [generations.clear(tmp_path, "default") for _ in range(2)] == [1, 0]
    assert not left.exists()
    assert path.exists()
    with pytest.raises(LookupError):
        generations.clear(tmp_path, "absent")
