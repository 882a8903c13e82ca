"""Starting processes."""

import errno
import os
import sys
from pathlib import Path

import pytest

from runnerd.machines.guest.spawn import Program, spawn

ENV = {"PATH": os.environ["PATH"]}


def run(program: Program) -> tuple[int, bytes]:
    """Run with standard output in a pipe; the exit code and the output."""
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    try:
        pid = spawn(program, null, write, null)
        os.close(write)
        write = -1
        with os.fdopen(read, "rb") as output:
            said = output.read()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said
    finally:
        os.close(null)
        if write >= 0:
            os.close(write)
            os.close(read)


def test_program_runs_where_and_with_what_it_was_told(tmp_path: Path) -> None:
    """Folder and environment are exactly the given ones."""
    code, said = run(Program(["sh", "-c", 'pwd; echo "$A"; exit 3'], ENV | {"A": "b c"}, str(tmp_path)))
    assert (code, said.decode()) == (3, f"{tmp_path}\nb c\n")


def test_child_leads_its_own_session() -> None:
    """The process is a session leader, and a signal that Python ignores is at its default."""
    script = "import os; print(os.getsid(0) == os.getpid())"
    assert run(Program([sys.executable, "-c", script], ENV))[1] == b"True\n"
    status = run(Program(["sh", "-c", "grep SigIgn /proc/self/status"], ENV))[1].split()[1]
    assert int(status, 16) & (1 << 12) == 0


def test_absent_program_and_folder_are_errors_not_exit_codes(tmp_path: Path) -> None:
    """What cannot be started raises an OSError that names it; nothing was run."""
    with pytest.raises(FileNotFoundError, match="cannot run nonesuch-program: No such file"):
        run(Program(["nonesuch-program"], ENV))
    with pytest.raises(FileNotFoundError, match="cannot enter the folder /nonesuch"):
        run(Program(["true"], ENV, "/nonesuch"))
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(PermissionError, match="cannot run"):
        run(Program([str(script)], ENV))
    script.write_bytes(b"\x7fELF nonsense")
    script.chmod(0o755)
    with pytest.raises(OSError, match="cannot run") as caught:
        run(Program([str(script)], ENV))
    assert caught.value.errno == errno.ENOEXEC
    with pytest.raises(ChildProcessError):  # failed children were reaped
        os.waitpid(-1, os.WNOHANG)


def test_path_is_searched_as_a_shell_would(tmp_path: Path) -> None:
    """The first executable on the command's own PATH is taken; one that may not run is passed over."""
    first, second = tmp_path / "1", tmp_path / "2"
    for folder, mode, text in ((first, 0o644, "no"), (second, 0o755, "yes")):
        folder.mkdir()
        (folder / "tool").write_text(f"#!/bin/sh\necho {text}\n")
        (folder / "tool").chmod(mode)
    path = f"{tmp_path}/none:{first}:{second}"
    assert run(Program(["tool"], {"PATH": path})) == (0, b"yes\n")
    assert run(Program(["true"], {})) == (0, b"")


def test_nonsense_is_refused_before_the_fork() -> None:
    """An empty argv and a NUL byte are ValueErrors."""
    with pytest.raises(ValueError, match="argv is empty"):
        Program([], {})
    with pytest.raises(ValueError, match="NUL"):
        Program(["a\0b"], {})
    with pytest.raises(ValueError, match="NUL"):
        Program(["a"], {"A": "\0"})


def test_body_runs_instead_of_a_program(tmp_path: Path) -> None:
    """A function can take the place of an exec; its value is the exit status; nothing of ours stays open."""

    def body() -> int:
        os.write(1, str(sorted(map(int, os.listdir("/proc/self/fd")))[:-1]).encode())
        return 9

    assert run(Program(["-"], {}, str(tmp_path), body=body)) == (9, b"[0, 1, 2]")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may change root and user")
def test_root_and_user_are_taken(tmp_path: Path) -> None:
    """With a root and a user the process is chrooted and has that uid, gid and no other group."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.is_relative_to("/tmp/pytest-of-root"):
            parent.chmod(0o755)
    (tmp_path / "mark").write_text("")

    def body() -> int:
        os.write(1, f"{os.listdir('/')} {os.getresuid()} {os.getgroups()} {os.getcwd()}".encode())
        return 0

    said = run(Program(["-"], {}, root=str(tmp_path), user=1001, body=body))[1]
    assert said == b"['mark'] (1001, 1001, 1001) [1001] /"
