"""What the host gives to its jobs: images by label, logs by run, secrets to be found, limits."""

import contextlib
from types import SimpleNamespace

import pytest
import trio

from runnerd.actors.attempt import NoSecrets
from runnerd.config import load
from runnerd.daemon.site import Site
from runnerd.forge.protocol import ForgeDenied, Token
from runnerd.model import Actor, Event, Repository
from runnerd.store.secrets import Secrets

CONFIG = """
[images.default]
labels = ["self-hosted", "linux", "ubuntu-latest"]
[images.big]
labels = ["self-hosted", "linux", "big"]
[executor]
default_timeout_minutes = 7
cancel_minutes = 2
[secrets.GUARDED]
environments = ["production"]
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
    assert (plain.variables, plain.environment) == ({}, {})
    assert (plain.foreign_is_failure, plain.allow_emulated_forks) == (False, False)
    given = site(config, tmp_path, variables={"C": "d"}, foreign_is_failure=True)
    assert (given.variables, given.foreign_is_failure) == ({"C": "d"}, True)


def run_of(**event):
    return SimpleNamespace(id=1, repository="octo/hello", event=push_event(**event))


def push_event(**fields):
    known = {
        "delivery": "d",
        "name": "push",
        "repository": Repository(id=5, full_name="octo/hello"),
        "sender": Actor(id=1, login="ada"),
        "ref": "refs/heads/main",
    }
    return Event(**{**known, **fields})


async def test_a_job_gets_the_secrets_it_names_and_no_other(config, tmp_path):
    """Of those kept and those given on the command line alike; all where it may name any."""
    store = Secrets(tmp_path / "secrets")
    for name in ("A", "B", "GUARDED"):
        store.set(name, f"value of {name}")
    here = site(config, tmp_path, secrets={"given": "g"}, store=store)
    assert await here.secrets_for(run_of(), frozenset({"A", "NONE"}), "") == {"A": "value of A"}
    assert await here.secrets_for(run_of(), frozenset({"GIVEN"}), "") == {"GIVEN": "g"}
    assert set(await here.secrets_for(run_of(), None, "")) == {"A", "B", "GIVEN"}
    assert set(await here.secrets_for(run_of(), None, "production")) == {"A", "B", "GUARDED", "GIVEN"}


async def test_a_stranger_gets_no_secret_by_any_way(config, tmp_path):
    """Neither by name nor as a whole, nor by naming an environment."""
    store = Secrets(tmp_path / "secrets")
    store.set("A", "x")
    here = site(config, tmp_path, secrets={"B": "y"}, store=store)
    for named in (None, frozenset({"A", "B"})):
        stranger = run_of(name="pull_request", fork=True, ref="refs/pull/3/merge")
        assert await here.secrets_for(stranger, named, "production") == {}


async def test_secrets_that_cannot_be_read_are_a_fault_of_the_host(config, tmp_path):
    """A file that others may read is not used; nothing of it is said."""
    store = Secrets(tmp_path / "secrets")
    store.set("A", "hunter2")
    (tmp_path / "secrets/shared/A").chmod(0o640)
    with pytest.raises(NoSecrets, match="chmod") as caught:
        await site(config, tmp_path, store=store).secrets_for(run_of(), None, "")
    assert "hunter2" not in str(caught.value)


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


class TokenForge:
    """Gives one token, or none, or fails; remembers what was asked and revoked."""

    def __init__(self, token=None, error=None):
        self.token, self.error, self.asked, self.revoked = token, error, [], []

    async def job_token(self, repository, permissions):
        self.asked.append((repository, permissions))
        if self.error:
            raise self.error
        return self.token

    async def revoke(self, token):
        await trio.lowlevel.checkpoint()
        self.revoked.append(token)


async def test_a_jobs_token_is_revoked_however_the_job_ends(config, tmp_path):
    """When it ends, fails or is cancelled."""
    token = Token(value="ghs_x", expires=1e12)
    for ending in ("ends", "fails", "is cancelled"):
        forge = TokenForge(token)
        here = site(config, tmp_path, forge=forge)
        with trio.CancelScope() as scope, contextlib.suppress(ZeroDivisionError):
            async with here.job_token(run_of(), {"contents": "read"}) as value:
                assert value == "ghs_x"
                if ending == "fails":
                    raise ZeroDivisionError
                if ending == "is cancelled":
                    scope.cancel()
                    await trio.sleep_forever()
        assert forge.asked == [("octo/hello", {"contents": "read"})]
        assert forge.revoked == [token]


async def test_where_no_token_can_be_made_a_job_has_none(config, tmp_path):
    """A personal token is never handed on; a forge that fails is no job without a token but a fault."""
    async with site(config, tmp_path, forge=TokenForge()).job_token(run_of(), {}) as value:
        assert value == ""
    with pytest.raises(NoSecrets, match="not now"):
        async with site(config, tmp_path, forge=TokenForge(error=ForgeDenied("not now"))).job_token(
            run_of(), {}
        ):
            pass
    async with site(config, tmp_path, secrets={"github_token": "mine"}).job_token(run_of(), {}) as value:
        assert value == "mine"
