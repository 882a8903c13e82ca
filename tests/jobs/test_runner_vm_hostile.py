"""Jobs that harm their own machine, in real microVMs: each end has its own words, the next job is well."""

from __future__ import annotations

import pytest
import trio

from runnerd.model import Outcome

pytestmark = pytest.mark.vm

TAKE_THE_PORT = """
import ctypes, os
libc, agent = ctypes.CDLL(None), os.pidfd_open(1)
for number in range(3, 64):
    copy = libc.syscall(438, agent, number, 0)  # pidfd_getfd
    if copy >= 0 and "vport" in os.readlink(f"/proc/self/fd/{copy}"):
        os.write(copy, FORGED)
"""

FRAMES = r"(b'RDA1\x08\0\0\0\0\0\0\1\0\0\0\x10' + bytes(16)) * 2048"
"""As Python writes them: ends of a process, with nothing in them."""


async def job(bench, driver, template, script):
    """One job of one step on a fresh machine of the driver."""
    bench.machine = machine = await driver.clone(template)
    try:
        await machine.thaw()
        await machine.lease()
        lines = "\n".join("          " + line for line in script.strip().splitlines())
        text = f"on: push\njobs:\n  one:\n    runs-on: x\n    steps:\n      - run: |\n{lines}\n"
        with trio.fail_after(300):
            return await bench.run(text)
    finally:
        await machine.destroy()


HARM = {
    "memory": (
        """python3 -c 'import os; kept = []
while True: kept.append(os.urandom(1 << 20) * 8)'""",
        Outcome.FAILURE,
        "ran out of memory",
    ),
    "disk": (
        "fallocate -l 400M some; cat /dev/zero > rest",
        Outcome.FAILURE,
        "disk is full",
    ),
    "kernel": (
        "sudo sh -c 'echo c > /proc/sysrq-trigger'; sleep 60",
        Outcome.LOST,
        "its kernel panicked",
    ),
    "frames": (
        f"sudo python3 -c '{TAKE_THE_PORT.replace('FORGED', FRAMES.replace(chr(39), chr(34)))}'; sleep 60",
        Outcome.LOST,
        "protocol",
    ),
}


@pytest.mark.parametrize("harm", HARM)
async def test_what_a_job_does_to_its_machine_is_named(bench, vm_driver, vm_template, harm):
    """Memory, disk, kernel, the agent's port: outcome and reason say which, and a next job succeeds."""
    script, outcome, words = HARM[harm]
    harmed = await job(bench, vm_driver, vm_template, script)
    assert (harmed.outcome, words in harmed.reason) == (outcome, True), harmed.reason
    if harm == "kernel":
        assert "Call Trace" in bench.log.text()  # more than the reason shows
    assert (await job(bench, vm_driver, vm_template, "echo well")).outcome is Outcome.SUCCESS


async def test_a_flood_of_the_console_and_forged_output_harm_nobody(bench, vm_driver, vm_template):
    """Who floods the console waits for it; frames and commands of the agent in a job's output are text."""
    script = r"""
        yes flooded | head -c 100000 | sudo tee /dev/console > /dev/null
        python3 -c 'import sys; sys.stdout.buffer.write(FRAMES)'
        echo; echo said it all; exit 5
    """.replace("FRAMES", FRAMES.replace("'", '"'))
    flooded = await job(bench, vm_driver, vm_template, script)
    assert (flooded.outcome, flooded.steps[0].exit_code) == (Outcome.FAILURE, 5), flooded.reason
    assert "said it all" in bench.log.output(1)
    assert bench.machine.console_end()[-1] == "flooded"
    assert (await job(bench, vm_driver, vm_template, "echo well")).outcome is Outcome.SUCCESS
