"""`runnerd doctor --selftest` with real processes, and with a driver that cannot."""

import json

from runnerd.cli import selftest
from runnerd.config import load


def settings(tmp_path, **flags):
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return load(None, environ={"STATE_DIRECTORY": str(tmp_path), "HOME": str(tmp_path)}, flags=named)


def test_every_part_is_timed(tmp_path) -> None:
    """A driver that works is good, with how long each part took; nothing is left of it."""
    ticks = iter(range(100))
    (finding,) = selftest.selftest(
        settings(tmp_path, machines__driver="process"), clock=lambda: float(next(ticks))
    )
    assert (finding.verdict, finding.found) == (
        "good",
        "process: template 1.00 s, machine 1.00 s, command 1.00 s, files 1.00 s, end 1.00 s",
    )


def test_what_cannot_be_is_a_problem_with_its_reason(tmp_path) -> None:
    """The sentence is the driver's own, in no group."""
    (finding,) = selftest.selftest(settings(tmp_path, machines__firecracker_api_url="http://127.0.0.1:1"))
    assert finding.verdict == "problem"
    assert finding.found.startswith("fcctl: the remote Firecracker service cannot be used: GET /health")


def test_option(invoke) -> None:
    """The option adds one finding to the others."""
    result = invoke("doctor", "--selftest", "--json", RUNNERD_MACHINES_DRIVER="process")
    finding = json.loads(result.stdout)[-1]
    assert (finding["about"], finding["verdict"]) == ("self-test", "good")
