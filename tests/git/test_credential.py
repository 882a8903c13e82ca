"""Giving git a token."""

import os

import pytest

from runnerd.git.credential import login
from runnerd.git.process import Git, GitError

TOKEN = "ghs_hunter2secret"


async def test_git_gets_the_login_for_the_remotes_host(tmp_path):
    """`git credential fill` answers with user and token, as often as it is asked."""
    with login("https://github.com/o/r.git", ("x-access-token", TOKEN)) as way_in:
        for _ in range(2):
            answer = await _fill(tmp_path, way_in, "github.com")
            assert f"username=x-access-token\npassword={TOKEN}\n" in answer


async def test_another_host_gets_nothing(tmp_path):
    """The helper is bound to scheme and host: a redirect elsewhere is not logged in."""
    account = ("x-access-token", TOKEN)
    with login("https://github.com/o/r.git", account) as way_in, pytest.raises(GitError):
        await _fill(tmp_path, way_in, "evil.example")


def test_the_token_is_in_no_argument_and_no_environment():
    """What is given to the process names a descriptor, never the token; afterwards that is closed."""
    with login("https://github.com/o/r.git", ("x-access-token", TOKEN)) as way_in:
        assert TOKEN not in str(Git(os.environ).environment(protocol="https", settings=way_in.settings))
        (descriptor,) = way_in.descriptors
        os.fstat(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_token_is_not_sent_in_the_clear():
    """Plain HTTP to another host is refused; to this host it is allowed."""
    with pytest.raises(GitError, match="use https"), login("http://forge.example/o/r", ("me", TOKEN)):
        pass
    with login("http://127.0.0.1:3000/o/r", ("me", TOKEN)) as way_in:
        assert way_in.descriptors


@pytest.mark.parametrize("remote", ["/srv/r.git", "git@github.com:o/r.git"])
def test_other_transports_ignore_the_token(remote):
    """Paths and ssh get no helper."""
    with login(remote, ("me", TOKEN)) as way_in:
        assert way_in == ({}, ())


def test_a_token_with_a_line_break_is_refused_without_repeating_it():
    """A second line would be another answer to git's question."""
    with (
        pytest.raises(GitError, match="line break") as caught,
        login("https://h/o/r", ("me", TOKEN + "\nhost=x")),
    ):
        pass
    assert TOKEN not in str(caught.value)


async def _fill(folder, way_in, host: str) -> str:
    answer = await Git(os.environ).run(
        "credential",
        "fill",
        cwd=folder,
        timeout=10,
        stdin=f"protocol=https\nhost={host}\n\n".encode(),
        settings=way_in.settings,
        descriptors=way_in.descriptors,
    )
    return answer.decode()
