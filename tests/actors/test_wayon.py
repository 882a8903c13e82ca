"""The kept machine and the standing a job goes on from: found, held, or a sentence that says why not."""

import pytest

from runnerd.actors.wayon import way_on
from runnerd.jobs.standing import Standing, encode
from runnerd.jobs.state import Shown
from runnerd.machines.driver import NoMachine
from runnerd.machines.kept import KeptMachines
from runnerd.machines.quota import Limits

STANDING = Standing(run=1, job=12, before=3, shown=Shown(status="success"))


@pytest.fixture
def store(tmp_path):
    return KeptMachines(tmp_path / "kept", Limits(count=1), clock=lambda: 1.0)


def keep(store, standing, *, job=12, step=3):
    new = store.place(job, step)
    new.mkdir()
    return store.put(new, standing, run=1, job=job, step=step, name="Test", encrypted=False)


async def test_what_is_kept_is_found_and_held(store):
    """Nothing removes it before the machine was made of it."""
    kept = keep(store, encode(STANDING))
    async with way_on(store, "12/3") as (found, standing):
        assert (found, standing) == (kept, STANDING)
        keep(store, encode(STANDING), job=13)
        assert store.find(12, 3) == kept
    store.sweep()
    assert len(store.all()) == 1


async def test_what_is_gone_is_said_to_be_gone(store):
    """The job cannot begin as it was to; the sentence says what can be done."""
    with pytest.raises(NoMachine, match=r"from step 3 of job 12, .* is not kept any more: run the job again"):
        async with way_on(store, "12/3"):
            pass


async def test_what_is_sealed_needs_its_key(tmp_path):
    """With the key it is as it was; without, the sentence says what is missing."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    store = KeptMachines(tmp_path / "kept", Limits(), clock=lambda: 1.0, key_file=key, seals=True)
    new = store.place(12, 3)
    new.mkdir()
    store.put(new, encode(STANDING), run=1, job=12, step=3, name="Test", encrypted=True)
    async with way_on(store, "12/3") as (_, standing):
        assert standing == STANDING
    key.unlink()
    with pytest.raises(NoMachine, match=r"how job 12 stood before step 3 cannot be read: .*No such file"):
        async with way_on(store, "12/3"):
            pass


@pytest.mark.parametrize("harm", [b"{}", b"\xff", b""])
async def test_what_cannot_be_read_is_said_to_be_so(store, harm):
    """Bytes that are no standing, and bytes that are not those which were written."""
    keep(store, harm)
    with pytest.raises(NoMachine, match=r"cannot be read: .*: run the job again from its start"):
        async with way_on(store, "12/3"):
            pass
    (keep(store, encode(STANDING)).folder / "standing").write_bytes(harm)
    with pytest.raises(NoMachine, match="how job 12 stood before step 3 cannot be read"):
        async with way_on(store, "12/3"):
            pass
