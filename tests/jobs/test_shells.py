"""Choosing a shell."""

import pytest

from runnerd.jobs.shells import NoShell, choose

ALL = {name: f"/usr/bin/{name}" for name in ("bash", "sh", "python", "python3", "pwsh")}


@pytest.mark.parametrize(
    ("written", "display", "argv"),
    [
        (None, "/usr/bin/bash -e {0}", ("/usr/bin/bash", "-e", "/s.sh")),
        ("", "/usr/bin/bash -e {0}", ("/usr/bin/bash", "-e", "/s.sh")),
        (
            "bash",
            "/usr/bin/bash --noprofile --norc -e -o pipefail {0}",
            ("/usr/bin/bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "/s.sh"),
        ),
        ("sh", "/usr/bin/sh -e {0}", ("/usr/bin/sh", "-e", "/s.sh")),
        ("python", "/usr/bin/python {0}", ("/usr/bin/python", "/s.py")),
        ("pwsh", "/usr/bin/pwsh -command \". '{0}'\"", ("/usr/bin/pwsh", "-command", ". '/s.ps1'")),
        ("bash -l {0}", "bash -l {0}", ("bash", "-l", "/s.sh")),
        ("perl -w '{0}' x", "perl -w '{0}' x", ("perl", "-w", "/s", "x")),
    ],
)
def test_each_shell_runs_the_script_as_github_does(written, display, argv):
    """The commands of GitHub's runner, with the script in the place of `{0}`."""
    shell = choose(written, ALL)
    assert shell.display == display
    assert shell.argv(f"/s{shell.suffix}") == argv


def test_without_bash_an_unnamed_shell_is_sh():
    """Only the default falls back."""
    assert choose(None, {"sh": "/bin/sh"}).argv("/s") == ("/bin/sh", "-e", "/s")
    with pytest.raises(NoShell, match="'bash' is not installed"):
        choose("bash", {"sh": "/bin/sh"})


def test_python_may_be_called_python3():
    """Debian has no `python` of itself."""
    assert choose("python", {"python3": "/usr/bin/python3"}).argv("/s") == ("/usr/bin/python3", "/s")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("pwsh", "'pwsh' is not installed"),
        ("cmd", "exists on Windows only"),
        ("powershell", "exists on Windows only"),
        ("zsh", "neither one of"),
        ("bash -x {0}", "'bash' is not installed"),
        ("perl '{0}", "cannot be read"),
    ],
)
def test_a_shell_that_cannot_be_had_is_said(written, said):
    """Never another shell in its place."""
    with pytest.raises(NoShell, match=said):
        choose(written, {"sh": "/bin/sh"})


def test_only_pwsh_changes_the_script():
    """There an error ends the script and its last program's status counts."""
    assert choose("bash", ALL).script("a\r\nb") == "a\r\nb"
    assert choose("pwsh", ALL).script("a").startswith("$ErrorActionPreference = 'stop'\na\n")
