"""A clone is tried twice."""

import errno

import pytest

from runnerd.machines.cloning import tried_twice
from runnerd.machines.driver import NoMachine


class Fails:
    """Raises these errors in turn, then gives a machine."""

    def __init__(self, *errors):
        self.errors = list(errors)

    async def __call__(self):
        if self.errors:
            raise self.errors.pop(0)
        return "a machine"


async def test_one_failure_is_made_good():
    """The second try gives the machine."""
    assert await tried_twice(Fails(OSError("one")), image="i", trouble=(OSError,)) == "a machine"


async def test_two_failures_are_both_told():
    """There is no third try."""
    fails = Fails(OSError("one"), OSError("two"), OSError("three"))
    with pytest.raises(NoMachine, match="no clone of the image 'i' got ready: one; then: two"):
        await tried_twice(fails, image="i", trouble=(OSError,))
    assert len(fails.errors) == 1


async def test_a_fault_of_ours_is_not_tried_again():
    """What is no trouble with a machine leaves as it is."""
    with pytest.raises(KeyError):
        await tried_twice(Fails(KeyError("x")), image="i", trouble=(OSError,))


async def test_the_same_twice_is_said_once():
    """And a full disk in words, with what to do."""
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(NoMachine, match="ready: no space is left where the state directory is: free some"):
        await tried_twice(Fails(full, full), image="i", trouble=(OSError,))
