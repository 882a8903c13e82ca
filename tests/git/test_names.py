"""Names that become arguments of git."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.git import names
from runnerd.git.process import GitError
from runnerd.model import Repository

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "text", ["", "HEAD", SHA[:39], SHA.upper(), SHA + "\n", "-" + SHA[1:], SHA + "^{tree}", f"--{SHA[2:]}"]
)
def test_only_forty_hexadecimal_digits_are_a_commit_id(text):
    """Abbreviations, options, revisions and line breaks are refused with a sentence."""
    with pytest.raises(GitError, match="is not a commit id"):
        names.sha(text)
    assert names.sha(SHA) == SHA


@pytest.mark.parametrize(
    "text",
    [
        "main",
        "--upload-pack=touch /tmp/x",
        "refs/heads/",
        "refs/heads/a..b",
        "refs/heads/a b",
        "refs/heads/a\nb",
        "refs/heads/*",
        "refs/heads/a:refs/heads/b",
        "refs/heads/.a",
        "refs/heads/a.lock",
        "refs/heads/a//b",
        "refs/heads/a@{1}",
        "refs/heads/a\\b",
        "refs/heads/\x1b]8;;x",
        "refs/heads/\u202ea",
        "refs/heads/" + "a" * 1024,
    ],
)
def test_a_ref_git_would_refuse_is_refused(text):
    """Options, patterns, refspecs, control characters and endless names never reach git."""
    with pytest.raises(GitError):
        names.ref(text)


@pytest.mark.parametrize(
    "text", ["refs/heads/main", "refs/pull/7/merge", 'refs/heads/x";curl${IFS}a', "refs/heads/-x"]
)
def test_a_ref_git_allows_is_passed_as_it_is(text):
    """What a shell would act on is a legal branch name, and harmless where there is no shell."""
    assert names.ref(text) == text


@given(st.text(max_size=30))
def test_no_text_makes_a_ref_that_is_an_option_or_a_pattern(text):
    """Whatever comes, what passes starts with refs/ and holds neither blanks, colons, stars nor controls."""
    try:
        passed = names.ref("refs/heads/" + text)
    except GitError:
        return
    assert passed.isprintable()
    assert not set(passed) & set(" :*?[\\^~")


def test_a_mirror_lies_under_owner_name_and_number():
    """Two repositories never share a folder, not even one that took over the other's name."""
    assert str(names.folder(Repository(id=7, full_name="Octo/Hello.World"))) == "octo/hello.world/7.git"
    assert names.folder(Repository(id=8, full_name="octo/hello")) != names.folder(
        Repository(id=9, full_name="octo/hello")
    )


@pytest.mark.parametrize(
    "name", ["octo", "../x", "octo/..", "a/b/c", "/b", "octo/", "octo/-x", "o\0/x", "octo/a b"]
)
def test_a_repository_name_that_leaves_its_folder_is_refused(name):
    """Traversal, options and separators in owner or name raise."""
    with pytest.raises(GitError, match="is not a repository name"):
        names.folder(Repository(id=1, full_name=name))


@pytest.mark.parametrize("path", ["", "/etc", "../x", "a/../b", "-x", "a\nb"])
def test_a_path_that_leaves_the_tree_is_refused(path):
    """A folder of a tree is relative and printable."""
    with pytest.raises(GitError):
        names.tree_path(path)


@pytest.mark.parametrize(
    ("remote", "scheme"),
    [
        ("https://github.com/o/r.git", "https"),
        ("http://127.0.0.1:8080/o/r", "http"),
        ("ssh://git@host:22/o/r", "ssh"),
        ("git@github.com:o/r.git", "ssh"),
        ("git://host/o/r", "git"),
        ("file:///srv/r.git", "file"),
        ("/srv/r.git", "file"),
    ],
)
def test_a_configured_remote_says_its_transport(remote, scheme):
    """The one transport git may then use is the one the operator wrote."""
    assert names.scheme(remote) == scheme


@pytest.mark.parametrize(
    "remote",
    [
        "ext::sh -c id",
        "fd::17",
        "srv/r.git",
        "-oProxyCommand=x:y",
        "https:///x",
        "ssh://-oProxyCommand=x/y",
        "a b:c",
        "",
    ],
)
def test_a_remote_of_another_kind_is_refused(remote):
    """Commands as remotes, relative paths and options in the place of hosts raise."""
    with pytest.raises(GitError):
        names.scheme(remote)


def test_a_remote_with_a_login_is_refused_without_repeating_it():
    """A token in a URL would stand in argv; the error does not hold it either."""
    with pytest.raises(GitError, match="carries a login") as caught:
        names.scheme("https://me:hunter2secret@github.com/o/r")
    assert "hunter2secret" not in str(caught.value)


def test_a_credential_is_good_for_scheme_and_host():
    """The path is not part of what a login is bound to."""
    assert names.origin("https://github.com:8443/o/r.git") == "https://github.com:8443"
