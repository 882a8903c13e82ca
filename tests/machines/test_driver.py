"""The contract of machines: what counts as success, and what a guest cannot make up."""

import pytest

from runnerd.machines.driver import Capabilities, Exit, Paths


@pytest.mark.parametrize(
    ("ended", "success"),
    [
        (Exit(code=0), True),
        (Exit(code=1), False),
        (Exit(signal=9), False),
        (Exit(), False),
        (Exit(code=0, signal=15), False),
    ],
)
def test_only_a_received_zero_is_success(ended: Exit, success: bool) -> None:
    """A missing status, a signal, or both at once is never a success."""
    assert ended.success is success


def test_isolation_must_be_said() -> None:
    """A driver cannot forget to say whether it isolates."""
    with pytest.raises(TypeError):
        Capabilities()


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ({"isolated": False}, ["as processes of this host"]),
        ({"isolated": True, "emulated": True}, ["emulated in software"]),
        ({"isolated": True, "separate": False}, ["as the daemon's own user"]),
        ({"isolated": True, "emulated": True, "separate": False}, ["emulated", "own user"]),
        ({"isolated": True}, []),
    ],
)
def test_what_isolation_lacks_is_said(lacking: dict[str, bool], said: list[str]) -> None:
    """One sentence for people per thing that is missing, and none where nothing is."""
    notice = Capabilities(**lacking).notice
    assert all(words in notice for words in said)
    assert bool(notice) is bool(said)


def test_paths_are_those_of_a_hosted_runner() -> None:
    """Workflows find home, workspace, temp and tools where GitHub's runners have them."""
    paths = Paths()
    assert (paths.work, paths.temp) == ("/home/runner/work", "/home/runner/work/_temp")
    assert (paths.home, paths.tools) == ("/home/runner", "/opt/hostedtoolcache")
