"""Facts of a checkout, and payloads about it that the forge's decoder understands."""

import subprocess
from pathlib import Path

import msgspec
import pytest

from runnerd.cli import checkout
from runnerd.cli.checkout import NO_COMMIT, Checkout
from runnerd.forge import events
from runnerd.git.process import GitError
from runnerd.model import Event

FACTS = Checkout(
    full_name="octo/cat", ref="refs/heads/topic", sha="a" * 40, before="b" * 40, message="Title\n\nBody"
)


def git(path: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "init.defaultBranch=trunk")
    command = ["git", "-C", str(path), *settings, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


async def test_first_commit(tmp_path: Path) -> None:
    """A first commit has no parent; a repository without a remote is named after its folder."""
    repository = tmp_path / "my repo"
    repository.mkdir()
    git(repository, "init", "-q")
    (repository / "a").write_text("a")
    git(repository, "add", "a")
    git(repository, "commit", "-q", "-m", "First\n\nmore")
    facts = await checkout.describe(repository)
    assert facts.full_name == "local/my-repo"
    assert facts.ref == "refs/heads/trunk"
    assert facts.default_branch == "trunk"
    assert facts.sha == git(repository, "rev-parse", "HEAD")
    assert facts.before == NO_COMMIT
    assert facts.message == "First\n\nmore"
    assert (facts.author, facts.email) == ("Ann", "ann@example.com")
    assert (facts.added, facts.modified, facts.removed) == (("a",), (), ())


async def test_later_commit(tmp_path: Path) -> None:
    """A later commit has its parent and what changed, also from a folder inside; odd file names survive."""
    git(tmp_path, "init", "-q")
    (tmp_path / "sub").mkdir()
    for name in ("sub/gone", "kept"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "one")
    (tmp_path / "sub/gone").unlink()
    (tmp_path / "kept").write_text("2")
    (tmp_path / 'new "ü"\nname').write_text("3")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "two")
    (tmp_path / "sub").mkdir(exist_ok=True)
    facts = await checkout.describe(tmp_path / "sub")
    assert facts.before == git(tmp_path, "rev-parse", "HEAD^")
    assert (facts.added, facts.modified, facts.removed) == (('new "ü"\nname',), ("kept",), ("sub/gone",))


async def test_no_checkout(tmp_path: Path) -> None:
    """A folder that is no repository, and one without a commit, raise GitError."""
    with pytest.raises(GitError):
        await checkout.describe(tmp_path)
    git(tmp_path, "init", "-q")
    with pytest.raises(GitError):
        await checkout.describe(tmp_path)


@pytest.mark.parametrize(
    ("remote", "name"),
    [
        ("https://github.com/octo/cat.git", "octo/cat"),
        ("https://user:token@github.com/octo/cat", "octo/cat"),
        ("git@github.com:octo/cat.git", "octo/cat"),
        ("ssh://git@git.example:2222/octo/cat.git/", "octo/cat"),
        ("/srv/git/cat.git", "local/here"),
        ("../cat", "local/here"),
        ("file:///srv/git/cat", "local/here"),
        ("", "local/here"),
    ],
)
def test_name_of(remote: str, name: str) -> None:
    """The name is the end of a forge's address; a path on this host says none."""
    assert checkout.name_of(remote, Path("/x/here")) == name


@pytest.mark.parametrize("event", checkout.EVENTS)
def test_payloads_are_understood(event: str) -> None:
    """Each payload decodes to an event of its kind about this commit; a ping is no event."""
    payload = checkout.payload(event, FACTS, workflow="ci.yml", number=7)
    decoded = events.decode(event, "d", msgspec.json.encode(payload))
    if event == "ping":
        assert isinstance(decoded, events.Ignored)
        return
    assert isinstance(decoded, Event)
    assert (decoded.name, decoded.repository.full_name) == (event, "octo/cat")
    if event == "push":
        assert (decoded.sha, decoded.before, decoded.message) == ("a" * 40, "b" * 40, "Title\n\nBody")
    if event == "pull_request":
        assert (decoded.number, decoded.head_ref, decoded.base_ref) == (7, "topic", "main")
        assert (decoded.report_sha, decoded.fork) == ("a" * 40, False)


def test_unknown_event() -> None:
    """An event whose payload is not known is refused with those that are."""
    with pytest.raises(ValueError, match="push, pull_request, workflow_dispatch, ping"):
        checkout.payload("release", FACTS)


def test_numbers_are_stable() -> None:
    """The same repository has the same number every time, whatever the case of its name."""
    one = checkout.payload("push", FACTS)["repository"]["id"]
    two = checkout.payload("push", msgspec.structs.replace(FACTS, full_name="Octo/Cat"))["repository"]["id"]
    assert one == two != 0
