"""Runs git on the host, and nothing of a repository with it: no hooks, no filters, no configuration.

Every git is its own session, killed as a group when it takes too long or its caller is cancelled, and
what it prints is bounded.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from runnerd import log

KILL_GRACE = 2.0
"""Seconds between asking a process group to end and ending it."""

_ERRORS_KEPT = 16 << 10

# Given as configuration of the command, which outranks the repository's own.
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.askPass": "",
    "credential.helper": "",
    "fetch.recurseSubmodules": "false",
    "fetch.unpackLimit": "1",
    "fetch.writeCommitGraph": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.followRedirects": "initial",
    "protocol.version": "2",
    "safe.directory": "*",
    "submodule.recurse": "false",
    "transfer.credentialsInUrl": "die",
}

# What of the daemon's environment may reach git: where programs are, and the way to the network.
_PASSED_ON = (
    "PATH",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
)


class GitError(OSError):
    """Git could not do it; the sentence says what and why, and holds no secret.

    An `OSError`, as a missing program or a full disk under it are, so that who asked for a work tree
    needs to know only that.
    """


class GitFailed(GitError):
    """Git ended by itself and said no; `status` is its exit status, `output` what it printed before."""

    def __init__(self, sentence: str, status: int, output: bytes) -> None:
        super().__init__(sentence)
        self.status = status
        self.output = output


class Git:
    """The host's git under fixed conditions.

    `environ` is the daemon's environment, of which only what git needs is passed on.
    """

    def __init__(self, environ: Mapping[str, str], *, executable: str = "git") -> None:
        self._executable = executable
        self._environ = environ

    def environment(self, *, protocol: str = "none", settings: Mapping[str, str] = {}) -> dict[str, str]:
        """Return git's whole environment; `protocol` is the only transport it may use."""
        env = {name: self._environ[name] for name in _PASSED_ON if name in self._environ}
        env.setdefault("PATH", os.defpath)
        env |= {
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": protocol,
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_OPTIONAL_LOCKS": "0",
        }
        if protocol == "ssh":
            # The operator's own key and known hosts are how ssh gets in; git's configuration stays out.
            env |= {n: self._environ[n] for n in ("HOME", "SSH_AUTH_SOCK") if n in self._environ}
            env["GIT_SSH_COMMAND"] = "ssh -oBatchMode=yes -oConnectTimeout=15"
        for number, (key, value) in enumerate({**_SETTINGS, **settings}.items()):
            env[f"GIT_CONFIG_KEY_{number}"] = key
            env[f"GIT_CONFIG_VALUE_{number}"] = value
            env["GIT_CONFIG_COUNT"] = str(number + 1)
        return env

    async def run(
        self,
        *arguments: str | os.PathLike[str],
        cwd: Path,
        timeout: float,
        stdin: bytes = b"",
        limit: int = 1 << 20,
        protocol: str = "none",
        settings: Mapping[str, str] = {},
        extra: Mapping[str, str] = {},
        descriptors: Sequence[int] = (),
    ) -> bytes:
        """Run one git command to its end and return what it printed, at most `limit` bytes.

        `settings` are configuration of this command alone, `extra` more of its environment. Raises
        `GitError` when it fails, prints more, takes longer than `timeout` seconds or is not installed.
        """
        env = {**self.environment(protocol=protocol, settings=settings), **extra}
        return await run(
            (self._executable, *arguments),
            cwd=cwd,
            env=env,
            timeout=timeout,
            stdin=stdin,
            limit=limit,
            descriptors=descriptors,
        )

    async def open(self, *arguments: str | os.PathLike[str], cwd: Path) -> trio.Process:
        """Start a git that answers on its standard output until its input is closed; end it with `end`."""
        return await _start(
            (self._executable, *arguments), cwd=cwd, env=self.environment(), stderr=subprocess.DEVNULL
        )


async def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float,
    stdin: bytes = b"",
    limit: int = 1 << 20,
    descriptors: Sequence[int] = (),
) -> bytes:
    """Run a program as `Git.run` does; git's helpers (tar) go this way too."""
    shown = " ".join(str(part) for part in command[:2])
    process = await _start(command, cwd=cwd, env=env, stderr=subprocess.PIPE, descriptors=descriptors)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    output = bytearray()
    errors = bytearray()
    overflow = False
    done = False

    async def feed(stream: trio.abc.SendStream) -> None:
        async with stream:
            try:
                await stream.send_all(stdin)
            except trio.BrokenResourceError:
                pass  # it ended without reading everything, which its status tells

    async def keep_errors(stream: trio.abc.ReceiveStream) -> None:
        while chunk := await stream.receive_some():
            errors.extend(chunk)
            del errors[:-_ERRORS_KEPT]

    async def read(stream: trio.abc.ReceiveStream) -> bool:
        while chunk := await stream.receive_some():
            if len(output) + len(chunk) > limit:
                return True
            output.extend(chunk)
        return False

    try:
        with trio.move_on_after(timeout):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed, process.stdin)
                nursery.start_soon(keep_errors, process.stderr)
                overflow = await read(process.stdout)
                if overflow:
                    nursery.cancel_scope.cancel()
                else:
                    await process.wait()
            done = not overflow
    finally:
        if done:
            await _close(process)
        else:
            await end(process)
    if overflow:
        raise GitError(f"`{shown}` printed more than {limit} bytes and was stopped")
    if not done:
        raise GitError(f"`{shown}` took longer than {timeout:g} s and was stopped")
    if process.returncode:
        why = _sentence(bytes(errors)) or f"status {process.returncode}"
        raise GitFailed(f"`{shown}` failed: {why}", process.returncode, bytes(output))
    return bytes(output)


async def end(process: trio.Process) -> None:
    """End a process and all it started: asked, then forced; bounded, safe to call twice, never raises."""
    with trio.CancelScope(shield=True):
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except (ProcessLookupError, PermissionError):
                pass
            with trio.move_on_after(KILL_GRACE):
                await process.wait()
        await _close(process)


async def _close(process: trio.Process) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            await trio.aclose_forcefully(stream)


async def _start(
    command: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stderr: int,
    descriptors: Sequence[int] = (),
) -> trio.Process:
    try:
        return await trio.lowlevel.open_process(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=cwd,
            env=dict(env),
            pass_fds=tuple(descriptors),
            start_new_session=True,
            umask=0o022,
        )
    except OSError as error:
        raise GitError(f"`{command[0]}` could not be started in {cwd}: {error.strerror}") from error


def _sentence(errors: bytes) -> str:
    """The last lines git printed, on one line, without what a terminal would act on."""
    lines = [line.strip() for line in errors.decode(errors="replace").replace("\r", "\n").splitlines()]
    kept = [line for line in lines if line][-4:]
    text = log.hide("; ".join(kept))  # the other side may say back what it was told
    return "".join(c if c.isprintable() else "?" for c in text)[:1000]
