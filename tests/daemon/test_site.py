"""What the host gives to its jobs: images by label, logs by run, secrets to be found, limits."""

from types import SimpleNamespace

import pytest

from runnerd.config import load
from runnerd.daemon.site import Site

CONFIG = """
[images.default]
labels = ["self-hosted", "linux", "ubuntu-latest"]
[images.big]
labels = ["self-hosted", "linux", "big"]
[executor]
default_timeout_minutes = 7
cancel_minutes = 2
[logs]
job_limit = 100000
step_limit = 20000
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return load(path, environ={"STATE_DIRECTORY": str(tmp_path / "state"), "HOME": str(tmp_path)})


def site(config, tmp_path, **more):
    known = {"state": tmp_path / "state", "clock": lambda: 0.0, "foreign_is_failure": False}
    return Site(config, None, **known | more)


@pytest.mark.parametrize(
    ("labels", "image"),
    [
        (("ubuntu-latest",), "default"),
        (("Self-Hosted", "BIG"), "big"),
        (("self-hosted",), "default"),
        (("big", "ubuntu-latest"), None),
        (("windows-latest",), None),
        ((), None),
    ],
)
def test_the_image_that_claims_all_labels_is_found(config, tmp_path, labels, image):
    """The first image that has every label, without regard to case; nobody claims none."""
    assert site(config, tmp_path).image_for(labels) == image


def test_what_is_configured_reaches_the_jobs(config, tmp_path):
    """Times, addresses and the rule for strangers' code; nothing is secret or set unless given."""
    plain = site(config, tmp_path)
    assert (plain.job_minutes, plain.cancel_minutes) == (7, 2)
    assert (plain.server_url, plain.api_url) == ("https://github.com", "https://api.github.com")
    assert (plain.secrets, plain.variables, plain.environment) == ({}, {}, {})
    assert (plain.foreign_is_failure, plain.allow_emulated_forks) == (False, False)
    given = site(config, tmp_path, secrets={"A": "b"}, variables={"C": "d"}, foreign_is_failure=True)
    assert (given.secrets, given.variables, given.foreign_is_failure) == ({"A": "b"}, {"C": "d"}, True)


async def test_a_jobs_log_is_whole_when_it_is_left(config, tmp_path):
    """It lies under logs/RUN/JOB.log in the state directory, with a time before each line."""
    async with site(config, tmp_path).open_log(SimpleNamespace(id=3), SimpleNamespace(id=14)) as log:
        await log.begin_step(1)
        await log.line("hello")
    path = tmp_path / "state" / "logs" / "3" / "14.log"
    assert path.read_text() == "1970-01-01T00:00:00.000000Z hello\n"


async def test_the_configured_limits_hold_for_the_log(config, tmp_path):
    """A step that says too much is cut, and the log says so."""
    async with site(config, tmp_path).open_log(SimpleNamespace(id=1), SimpleNamespace(id=1)) as log:
        await log.begin_step(1)
        for number in range(2000):
            await log.line(f"{number} " + "x" * 50)
    text = (tmp_path / "state" / "logs" / "1" / "1.log").read_text()
    assert len(text) < 25_000
    assert "were dropped here" in text
