"""The command line of QEMU: what isolates, and what a template and its clones have in common."""

import pytest

from runnerd.machines.driver import Size
from runnerd.machines.qemu import vmm
from runnerd.machines.qemu.vmm import Purpose, Spec

SPEC = Spec(qemu="/usr/bin/qemu", accelerator="tcg", size=Size(vcpus=2, memory=512), tsc_khz=2_596_120)


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
@pytest.mark.parametrize("purpose", list(Purpose))
@pytest.mark.parametrize("board", vmm.BOARDS)
def test_a_machine_is_confined(accelerator, purpose, board):
    """Every machine has the sandbox, no network card, no default device and no path of the host."""
    argv = vmm.command(
        Spec(qemu="/usr/bin/qemu", board=board, accelerator=accelerator, size=Size(), tsc_khz=1), "n", purpose
    )
    text = " ".join(argv)
    assert "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny" in text
    for word in ("-nodefaults", "-no-user-config", "-no-reboot"):
        assert word in argv
    for word in ("-netdev", "-nic", "virtio-net", "-monitor", "-vnc", "-gdb"):
        assert word not in text
    assert [word for word in text.replace("/proc/self/fd/", "").split() if "/" in word] == ["/usr/bin/qemu"]


def test_a_clone_shares_no_memory():
    """A clone maps the template's memory privately and waits for the state; all else is the same."""
    template, clone = (vmm.command(SPEC, "n", purpose) for purpose in (Purpose.TEMPLATE, Purpose.CLONE))
    assert clone[-2:] == ("-incoming", "defer")
    differing = [pair for pair in zip(template, clone[:-2], strict=True) if pair[0] != pair[1]]
    assert len(differing) == 1
    assert [each.rpartition(",")[2] for each in differing[0]] == ["share=on", "share=off"]


@pytest.mark.parametrize("board", vmm.BOARDS)
def test_a_machine_is_made_of_what_was_asked_for(board):
    """The devices are those that a QEMU must have for this board, on every machine of it."""
    recipe = Spec(qemu="q", board=board, accelerator="tcg", size=Size(), tsc_khz=1).recipe(Purpose.CLONE)
    argv = vmm.command_of(recipe, "q", "n")
    devices = {argv[at + 1].partition(",")[0] for at, word in enumerate(argv) if word == "-device"}
    assert devices == set(vmm.DEVICES[board])
    assert argv[argv.index("-M") + 1].startswith(f"{board},memory-backend=mem,dump-guest-core=off")


def test_every_descriptor_is_named_and_used():
    """The names that stand in the command line are those a launcher must be given."""
    text = " ".join(vmm.command(SPEC, "n", Purpose.CLONE))
    assert set(vmm.descriptors()) == set(text.split("@")[1::2])


def test_the_job_disk_and_the_image_are_read_only():
    """A machine can write to its scratch disk and to nothing else."""
    drives = [
        word for word in vmm.command(SPEC, "n", Purpose.CLONE) if word.startswith("id=") and "format=" in word
    ]
    writable = [drive.split(",")[0] for drive in drives if "readonly=on" not in drive]
    assert len(drives) == 4
    assert writable == ["id=upper"]


def test_emulation_is_told_the_rate_of_the_counter():
    """Without the rate some boots hang; under KVM the guest has a clock of its own."""
    assert "tsc_early_khz=2596120" in vmm.kernel_command_line(SPEC)
    native = Spec(qemu="q", accelerator="kvm", size=Size(), tsc_khz=1)
    assert "tsc" not in vmm.kernel_command_line(native)


def test_addresses_are_random_where_that_costs_nothing() -> None:
    """Under emulation it costs a third of a short step; real processors run with it."""
    assert "norandmaps" in vmm.kernel_command_line(SPEC).split()
    native = Spec(qemu="q", accelerator="kvm", size=Size(), tsc_khz=1)
    assert "norandmaps" not in vmm.kernel_command_line(native)


def test_the_size_is_what_was_asked():
    """Memory and processors reach the command line; a probe is small and uses KVM."""
    argv = vmm.command(SPEC, "n", Purpose.TEMPLATE)
    assert argv[argv.index("-m") + 1] == "512M"
    assert argv[argv.index("-smp") + 1] == "2"
    assert {"kvm", "q35"} <= set(vmm.probe("q", "q35"))


def test_a_clone_may_be_the_first_to_touch_its_templates_memory():
    """A clone's group has room for the template's pages it makes; a template has no other's memory."""
    assert SPEC.recipe(Purpose.CLONE).memory_shared == 512
    assert SPEC.recipe(Purpose.TEMPLATE).memory_shared == 0
    assert SPEC.recipe(Purpose.CLONE).memory_bound == 512 + vmm.OVERHEAD["tcg"]
    assert SPEC.recipe(Purpose.CLONE).threads_bound == 132
