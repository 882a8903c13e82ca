"""Running git on the host."""

import os
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from runnerd import log
from runnerd.git import process
from runnerd.git.process import Git, GitError


@pytest.fixture
def git() -> Git:
    return Git(os.environ)


async def test_output_is_returned(git, tmp_path):
    """What git prints comes back as bytes."""
    assert (await git.run("version", cwd=tmp_path, timeout=120)).startswith(b"git version")


async def test_a_failure_says_what_git_said(git, tmp_path):
    """The error names the command and repeats git's last lines."""
    with pytest.raises(GitError, match=r"`git rev-parse` failed: .*not a git repository"):
        await git.run("rev-parse", "HEAD", cwd=tmp_path, timeout=120)


async def test_errors_hold_nothing_a_terminal_would_act_on(tmp_path):
    """Escape sequences in git's own words are replaced."""
    script = "import sys; sys.stderr.write('\\x1b]0;owned\\x07 bad'); sys.exit(3)"
    with pytest.raises(GitError) as caught:
        await process.run((sys.executable, "-c", script), cwd=tmp_path, env={}, timeout=120)
    assert "\x1b" not in str(caught.value)
    assert "bad" in str(caught.value)


async def test_errors_hold_no_secret(tmp_path, monkeypatch):
    """A server that says the token back to git does not bring it into our words."""
    monkeypatch.setattr(log, "_hidden", ())
    log.redact("ghp_secret")
    script = "import sys; sys.stderr.write('remote: I do not like ghp_secret'); sys.exit(128)"
    with pytest.raises(GitError, match=r"I do not like \*\*\*"):
        await process.run((sys.executable, "-c", script), cwd=tmp_path, env={}, timeout=120)


async def test_too_much_output_is_stopped(git, tmp_path):
    """A command that prints more than its limit is ended, not buffered."""
    command = (sys.executable, "-c", "while True: print('x' * 65536)")
    with pytest.raises(GitError, match="more than 100000 bytes"):
        await process.run(command, cwd=tmp_path, env={}, timeout=120, limit=100_000)


@pytest.fixture
def family(tmp_path, eventually):
    """A command that starts another and waits for it; `family.child` waits for the pid of that."""

    class Family:
        command = ("sh", "-c", "sleep 600 & echo $! >new; mv new pid; wait")

        async def child(self) -> int:
            await eventually((tmp_path / "pid").exists)
            return int((tmp_path / "pid").read_text())

    return Family()


async def test_a_slow_command_is_stopped_with_all_it_started(tmp_path, family, nursery, mock_clock):
    """After the time-out the whole process group is gone."""
    mock_clock.rate = 1

    async def expire() -> None:
        await family.child()
        mock_clock.jump(300)

    nursery.start_soon(expire)
    with pytest.raises(GitError, match=r"longer than 300 s"):
        await process.run(family.command, cwd=tmp_path, env=dict(os.environ), timeout=300)
    await _gone(await family.child())


async def test_cancelling_ends_the_process_group(tmp_path, family):
    """No process outlives the task that ran it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(process.run, family.command, cwd=tmp_path, env=dict(os.environ), timeout=600)
        )
        child = await family.child()
        nursery.cancel_scope.cancel()
    await _gone(child)


async def test_a_missing_program_is_said(tmp_path):
    """Git not being installed is a sentence, not a traceback."""
    with pytest.raises(GitError, match="could not be started"):
        await Git({"PATH": str(tmp_path)}, executable="no-such-git").run("version", cwd=tmp_path, timeout=120)


async def test_input_that_is_not_read_does_no_harm(tmp_path):
    """A program that ends before reading its input is judged by its status alone."""
    unread = b"x" * (1 << 20)
    out = await process.run(("true",), cwd=tmp_path, env=dict(os.environ), timeout=120, stdin=unread)
    assert out == b""


async def test_the_users_configuration_is_not_read(tmp_path):
    """Neither HOME nor GIT_* variables of the daemon change what git does."""
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = intruder\n")
    git = Git({**os.environ, "HOME": str(tmp_path), "GIT_CONFIG_PARAMETERS": "'user.name=intruder'"})
    with pytest.raises(GitError):
        await git.run("config", "--get", "user.name", cwd=tmp_path, timeout=120)


def test_only_the_named_transport_is_allowed():
    """Without a transport none is allowed; ssh alone gets HOME, for its keys."""
    git = Git({"PATH": "/bin", "HOME": "/root", "SECRET": "x"})
    assert git.environment()["GIT_ALLOW_PROTOCOL"] == "none"
    assert "HOME" not in git.environment(protocol="https")
    assert git.environment(protocol="ssh")["HOME"] == "/root"
    assert "SECRET" not in git.environment(protocol="ssh")


async def test_hooks_and_monitors_of_a_repository_do_not_run(tmp_path):
    """A repository's own hooks and fsmonitor stay unused."""
    git = Git(os.environ)
    await git.run("init", "--quiet", ".", cwd=tmp_path, timeout=120)
    marker = tmp_path / "ran"
    hook = tmp_path / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
    hook.chmod(0o755)
    with (tmp_path / ".git" / "config").open("a") as config:
        config.write(f'[core]\n\tfsmonitor = "touch {marker}"\n\thooksPath = .git/hooks\n')
    (tmp_path / "file").write_text("x")
    await git.run("add", "file", cwd=tmp_path, timeout=120)
    await git.run("status", "--porcelain", cwd=tmp_path, timeout=120)
    assert not marker.exists()


async def test_end_is_safe_twice(git, tmp_path):
    """Ending an ended process does nothing."""
    await git.run("init", "--bare", "--quiet", ".", cwd=tmp_path, timeout=120)
    running = await git.open("cat-file", "--batch-command", cwd=tmp_path)
    await process.end(running)
    await process.end(running)
    assert running.returncode is not None


async def _gone(pid: int) -> None:
    with trio.fail_after(30):
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            if _zombie(pid):
                return
            await trio.sleep(0.02)


def _zombie(pid: int) -> bool:
    """Whether it is dead, and waits for whoever adopted it, who may have come meanwhile."""
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return True
