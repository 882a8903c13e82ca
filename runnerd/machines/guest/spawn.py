"""Starting a process in the job's root: fork, become the job's user, exec, or say exactly why not."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Callable, Mapping, Sequence

_TAKE_TERMINAL = 0x540E  # TIOCSCTTY
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What Python ignores or the agent catches; a child starts with the defaults.
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


class Program:
    """What to run and as whom. `root` None: no chroot; `user` None: as the agent itself."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str = "/",
        root: str | None = None,
        user: int | None = None,
        body: Callable[[], int] | None = None,
    ) -> None:
        if not argv:
            raise ValueError("nothing to run: argv is empty")
        self.argv = [os.fsencode(word) for word in argv]
        self.env = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
        if any(b"\0" in word for word in (*self.argv, *self.env, *self.env.values())):
            raise ValueError("a NUL byte in argv or env")
        self.cwd = cwd
        self.root = root
        self.user = user
        self.terminal = False
        """Its standard input is a terminal, which is to control it."""
        self.body = body
        """Runs in the child instead of an exec; its value is the exit status."""

    def candidates(self) -> list[bytes]:
        """The files `argv[0]` may mean."""
        if b"/" in self.argv[0]:
            return [self.argv[0]]
        path = self.env.get(b"PATH") or PATH.encode()
        return [os.path.join(folder or b".", self.argv[0]) for folder in path.split(b":")]


def spawn(program: Program, stdin: int, stdout: int, stderr: int) -> int:
    """Start the program as leader of its own session and return its pid.

    Raises OSError, with a sentence, when its folder or its file cannot be used; then nothing runs.
    """
    candidates = program.candidates()
    report, trouble = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(report)
        os.close(trouble)
        raise
    if pid == 0:
        _become(program, candidates, (stdin, stdout, stderr), trouble)
    os.close(trouble)
    try:
        said = os.read(report, 64)  # empty as soon as the exec closed the other end
    finally:
        os.close(report)
    if said:
        os.waitpid(pid, 0)
        number, _, stage = said.partition(b" ")
        about = program.cwd if stage == b"cwd" else os.fsdecode(program.argv[0])
        what = {b"cwd": "cannot enter the folder", b"exec": "cannot run"}.get(
            stage, "cannot become the job's user for"
        )
        raise OSError(int(number), f"{what} {about}: {os.strerror(int(number))}")
    return pid


def _become(program: Program, candidates: list[bytes], streams: tuple[int, int, int], trouble: int) -> None:
    """The child's side; never returns."""
    stage = b"setup"
    number = errno.EINVAL
    try:
        os.setsid()
        for caught in _RESTORED:
            signal.signal(caught, signal.SIG_DFL)
        _offer_to_the_oom_killer()
        for target, source in enumerate(streams):
            os.dup2(source, target)
        if program.terminal:
            fcntl.ioctl(0, _TAKE_TERMINAL, 0)
        if program.root is not None:
            os.chroot(program.root)
            os.chdir("/")
        if program.user is not None:
            os.setgroups([program.user])
            os.setgid(program.user)
            os.setuid(program.user)
        stage = b"cwd"
        os.chdir(program.cwd)
        stage = b"exec"
        if program.body is not None:
            trouble = -1
            os.closerange(3, 65536)  # no exec will close them; among them is the other end of stdin
            os._exit(program.body())
        number = _exec(program, candidates)
    except OSError as error:
        number = error.errno or errno.EINVAL
    except BaseException:  # nothing may unwind into the agent's loop
        pass
    if trouble >= 0:
        os.write(trouble, b"%d %s" % (number, stage))
    os._exit(127)


def _exec(program: Program, candidates: list[bytes]) -> int:
    """Try the candidates; returns the errno that says best why none of them runs."""
    number = errno.ENOENT
    for candidate in candidates:
        try:
            os.execve(candidate, program.argv, program.env)
        except OSError as error:
            if error.errno == errno.EACCES:
                if os.access(candidate, os.F_OK):  # not just a folder of PATH that is closed to us
                    number = errno.EACCES
            elif error.errno not in (errno.ENOENT, errno.ENOTDIR):
                return error.errno or errno.EINVAL
    return number


def _offer_to_the_oom_killer() -> None:
    """Prefer the job over the agent when memory runs out."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    except OSError:  # no /proc: nothing to prefer with
        return
    try:
        os.write(fd, b"100")
    except OSError:
        pass
    finally:
        os.close(fd)
