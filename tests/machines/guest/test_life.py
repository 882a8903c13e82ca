"""The stages of a machine's life, as far as they can be lived on a host."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import ENV, Host

THAW = {"seed": "00" * 64, "now": 0.0, "hostname": "h", "machine_id": "m", "boot_id": "b"}


def test_thaw_on_a_shared_kernel_changes_nothing_of_it(host: Host) -> None:
    """An agent without a machine of its own leaves clock and host name alone, and gives fresh probes."""
    name, before = os.uname().nodename, time.time()
    first, second = host.call("thaw", **THAW), host.call("thaw", **THAW)
    assert first["probe"] != second["probe"]
    assert (first["generation"], second["generation"]) == (1, 2)
    assert (os.uname().nodename, time.time() >= before) == (name, True)
    assert host.call("clock", now=0.0) == {}
    assert time.time() >= before


def test_incomplete_thaw_is_refused(host: Host) -> None:
    """A thaw without an identity is a bad request."""
    assert "bad request" in host.call("thaw", seed="", now=1.0)["error"]


def test_root_is_not_mounted_without_a_machine(host: Host) -> None:
    """On a host nothing is mounted."""
    answer = host.call("mount_root", lower="/", upper=None, into="/nonesuch", folders=[], user=0)
    assert "no machine of its own" in answer["error"]


def test_quiesced_agent_hears_only_a_hello(host: Host) -> None:
    """After quiesce everything is ended, and requests go unheard until a new session."""
    stream = host.request("exec", argv=["sleep", "60"], env=ENV)
    host.answer(stream)
    assert host.call("quiesce") == {}
    host.request("ping")
    assert host.hello("two")["nonce"] == "two"
    assert host.call("ping") == {}


def test_end_leaves_no_process(host: Host) -> None:
    """Every process below the agent is gone when `end` is answered."""
    _, out, _ = host.run("sh", "-c", "setsid setsid sleep 60 >/dev/null 2>&1 & echo $!")
    assert host.call("end", seconds=5) == {"ended": True}
    assert not Path(f"/proc/{int(out)}").exists()


UNSHARE = shutil.which("unshare")

INSIDE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from runnerd.machines.guest import life, system
base = sys.argv[2]
life._STATE = base + "/state"
os.makedirs(life._STATE)

class Agent:
    init, job_root, names = True, None, None
    files = life.Tree("/")
    identity = {"hostname": "template", "machine_id": "longer-than-abc", "boot_id": "1"}

wanted = dict(lower=base + "/lower", upper=None, into=base + "/job", folders=["/home/runner/work"], user=1001)
for _ in range(2):
    assert life.mount_root(Agent, 4, dict(wanted)) == {}
try:
    life.mount_root(Agent, 4, wanted | {"into": "/elsewhere"})
except ValueError as error:
    print(str(error) == f"the job's root is {base}/job already")
Agent.names.write({"hostname": "runnerd-1", "machine_id": "abc", "boot_id": "6c13d3f4"})
os.chroot(base + "/job")
os.chdir("/")
read = lambda path: open(path).read().strip()
print(read("/etc/hostname"), read("/etc/machine-id"), read("/proc/sys/kernel/random/boot_id"), read("/kept"))
open("/written", "w").close()
print(os.stat("/home/runner/work").st_uid, os.stat("/home/runner").st_uid)
print(oct(os.stat("/tmp").st_mode & 0o7777), os.path.exists("/proc/self/stat"), os.path.exists("/dev/null"))
"""


@pytest.mark.skipif(
    os.getuid() != 0 or not UNSHARE, reason="only root may mount; machines under QEMU show it too"
)
def test_jobs_root_is_the_image_under_a_layer(tmp_path: Path) -> None:
    """In a mount namespace: the image shows through, its names are this machine's, and it stays unwritten."""
    lower = tmp_path / "lower"
    (lower / "etc").mkdir(parents=True)
    (lower / "kept").write_text("kept")
    (lower / "etc/hostname").symlink_to("/kept")
    assert UNSHARE
    done = subprocess.run(
        [UNSHARE, "-m", sys.executable, "-c", INSIDE, Path(__file__).parents[3], tmp_path],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "True",
        "runnerd-1 abc 6c13d3f4 kept",
        "1001 1001",
        "0o1777 True True",
    ]
    assert sorted(os.listdir(lower)) == ["etc", "kept"]
    assert (lower / "kept").read_text() == "kept"


def test_quiesced_agent_serves_as_before(host: Host) -> None:
    """After any number of freezings a new session finds an agent that works."""
    for nonce in ("two", "three"):
        assert host.call("quiesce") == {}
        host.hello(nonce)
        assert host.run("true")[0]["code"] == 0
