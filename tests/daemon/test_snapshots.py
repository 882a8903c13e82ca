"""What [snapshots] makes of the state directory and of the key."""

import msgspec
import pytest

from runnerd.config import load
from runnerd.config.sections import Snapshots
from runnerd.daemon.snapshots import kept_machines, why_no_key


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("")
    return load(path, environ={"STATE_DIRECTORY": str(tmp_path / "state"), "HOME": str(tmp_path)})


def given(config, **changes):
    return msgspec.structs.replace(config, snapshots=Snapshots(**changes))


def test_limits_are_the_configured_ones(config, tmp_path):
    """The quota is written in MiB."""
    config = given(config, count=3, age=60.0, disk=5, limit=7)
    store = kept_machines(config, tmp_path, float)
    limits = store.limits
    assert (limits.count, limits.age, limits.disk, limits.limit) == (3, 60.0, 5 << 20, 7)
    assert store.folder == tmp_path / "kept"
    assert not store.seals


def test_the_key_is_made_once_where_it_is_wanted(config, tmp_path):
    """And it opens what was encrypted, also when the wish is gone."""
    key = tmp_path / "snapshots.key"
    wanted = given(config, secrets=True, key=str(key))
    assert why_no_key(given(config, key=str(key))) == ""
    assert not key.exists()
    assert why_no_key(wanted) == why_no_key(wanted) == ""
    store = kept_machines(wanted, tmp_path, float)
    assert store.seals
    assert store.key() == key.read_bytes()
    assert kept_machines(given(config, key=str(key)), tmp_path, float).key() == key.read_bytes()


@pytest.mark.parametrize(
    ("place", "said"), [("short", "5 bytes instead of 32"), ("no/such/folder", "No such file")]
)
def test_a_key_that_cannot_be_used_is_said(config, tmp_path, place, said):
    """In one sentence."""
    (tmp_path / "short").write_bytes(b"short")
    (tmp_path / "short").chmod(0o600)
    problem = why_no_key(given(config, secrets=True, key=str(tmp_path / place)))
    assert problem.startswith("the key of [snapshots] cannot be used")
    assert said in problem
