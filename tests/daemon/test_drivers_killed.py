"""Killed at any moment of a machine's life, the next daemon finds and ends it, and the journal says so."""

import signal
import sys
from pathlib import Path

import pytest
import trio

from runnerd.daemon import drivers
from runnerd.machines import launcher, reaper
from runnerd.store.ledger import open_ledger

from .dying import opener

ROOT = Path(__file__).parents[2]


@pytest.mark.vm
@pytest.mark.parametrize("stage", ["starting", "running", "leased", "gone"])
async def test_no_stage_hides_a_machine_from_the_next_start(
    vm_image, state_directory, tmp_path, nursery, stage
):
    """It is in the journal before its process is, its process is ended, and its end has its reason."""
    state = tmp_path / "state"
    state.mkdir()
    command = [sys.executable, "-m", "tests.daemon.dying", str(state), str(state_directory), stage]
    with trio.fail_after(600):
        died = await trio.run_process(command, cwd=ROOT, capture_stderr=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    left = launcher.strays(reaper.mark(state))  # where the kernel did not end it with the daemon
    async with open_ledger(state) as ledger:
        await nursery.start(ledger.serve_writes)
        known = {machine.id for machine in await ledger.machines()}
        assert all(any(name.endswith(id) for id in known) for name in left.values())
        async with opener(state, state_directory, ledger, lambda state: None)():
            assert launcher.strays(reaper.mark(state)) == {}
            assert await ledger.machines() == []
            ends = {machine.id: machine.why for machine in await ledger.machine_history(9)}
            assert all(drivers.REAPED in ends[id] for id in known)
            assert bool(known) == (stage != "gone")
        nursery.cancel_scope.cancel()
