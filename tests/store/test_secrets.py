"""The host's own secrets: kept apart, open to their owner alone, never shown."""

import os
import stat

import pytest

from runnerd.store.secrets import LIMIT, SecretError, Secrets, checked_name


@pytest.fixture
def secrets(tmp_path):
    return Secrets(tmp_path / "secrets", tmp_path / "credentials")


def test_what_is_set_is_had_again_until_it_is_removed(secrets):
    """In whatever case it was named; a repository's own value comes before the shared one."""
    secrets.set("Key", "shared")
    secrets.set("KEY", "own", "Octo/Hello")
    assert secrets.values("octo/hello", frozenset({"KEY", "OTHER"})) == {"KEY": "own"}
    assert secrets.values("octo/else", frozenset({"KEY"})) == {"KEY": "shared"}
    assert [(entry.repository, entry.name) for entry in secrets.list()] == [
        ("", "KEY"),
        ("octo/hello", "KEY"),
    ]
    assert secrets.remove("key", "octo/hello") is True
    assert secrets.remove("key", "octo/hello") is False
    assert secrets.values("octo/hello", frozenset({"KEY"})) == {"KEY": "shared"}


def test_nobody_else_may_read_them(secrets, tmp_path):
    """Folders are 0700 and files 0600, whatever the umask; a file opened to others is refused."""
    before = os.umask(0)
    try:
        secrets.set("KEY", "x", "octo/hello")
    finally:
        os.umask(before)
    root = tmp_path / "secrets"
    for path in [root, *root.rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    (root / "repositories/octo/hello/KEY").chmod(0o644)
    with pytest.raises(SecretError, match="chmod 600"):
        secrets.values("octo/hello", frozenset({"KEY"}))


@pytest.mark.parametrize(
    "name", ["", "1A", "A-B", "../x", "GITHUB_TOKEN", "github_x", "A B", "Ä", "A" * 101, "A\n"]
)
def test_names_are_those_github_takes(name):
    """Letters, digits and underscores, no digit first, and nothing that looks like GitHub's own."""
    with pytest.raises(SecretError):
        checked_name(name)


@pytest.mark.parametrize("repository", ["x", "../..", "a/..", "a/b/c", "/a", "a/"])
def test_a_repository_cannot_lead_elsewhere(secrets, repository):
    """Only a full name is a place for secrets."""
    with pytest.raises(SecretError):
        secrets.set("KEY", "x", repository)


@pytest.mark.parametrize("value", ["", "  \n", "hunter2\0", "hunter2" * LIMIT])
def test_what_is_no_value_is_refused_without_being_shown(secrets, value):
    """Empty, too large, or not possible in an environment; the error does not quote it."""
    with pytest.raises(SecretError) as caught:
        secrets.set("KEY", value)
    assert "hunter2" not in str(caught.value)


def test_a_link_is_not_followed(secrets, tmp_path):
    """A link in place of a secret reads nobody else's file."""
    secrets.set("OTHER", "x")
    (tmp_path / "target").write_text("root:x")
    (tmp_path / "secrets/shared/KEY").symlink_to(tmp_path / "target")
    with pytest.raises(SecretError):
        secrets.values("octo/hello", frozenset({"KEY"}))


def test_credentials_of_systemd_are_shared_secrets(secrets, tmp_path):
    """`secret.NAME` counts, after what is kept here; other credentials are nobody's business."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "secret.KEY").write_text("given")
    (folder / "secret.GITHUB_TOKEN").write_text("no")
    (folder / "github_webhook_secret").write_text("no")
    assert secrets.names("octo/hello") == {"KEY"}
    assert secrets.values("octo/hello", frozenset({"KEY"})) == {"KEY": "given"}
    secrets.set("KEY", "kept")
    assert secrets.values("octo/hello", frozenset({"KEY"})) == {"KEY": "kept"}
