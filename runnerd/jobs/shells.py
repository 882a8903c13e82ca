"""Which command runs a step's script, as GitHub's runner chooses it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import msgspec

_TEMPLATES = {
    "bash": "bash --noprofile --norc -e -o pipefail {0}",
    "sh": "sh -e {0}",
    "python": "python {0}",
    "pwsh": "pwsh -command \". '{0}'\"",
}
_SUFFIXES = {"bash": ".sh", "sh": ".sh", "python": ".py", "pwsh": ".ps1"}
_ELSEWHERE = ("cmd", "powershell")

PROBED = ("bash", "sh", "python", "python3", "pwsh")
"""Programs whose presence in the machine decides."""


class NoShell(ValueError):
    """The step cannot be run with this shell; says why."""


class Shell(msgspec.Struct, frozen=True, kw_only=True):
    """How one script is run."""

    display: str
    """The command as the log shows it, with `{0}` for the script."""
    words: tuple[str, ...]
    """The command's words, each possibly holding `{0}`."""
    suffix: str
    kind: str
    """The built-in shell's name, empty for a custom one."""

    def argv(self, script: str) -> tuple[str, ...]:
        """Return the command for a script at this path."""
        return tuple(word.replace("{0}", script) for word in self.words)

    def script(self, text: str) -> str:
        """Return what is written to the script's file: the text as it is, but for pwsh.

        There errors stop the script and the last program's status is the script's, as at GitHub.
        """
        if self.kind != "pwsh":
            return text
        return (
            f"$ErrorActionPreference = 'stop'\n{text}\n"
            "if ((Test-Path -LiteralPath variable:\\LASTEXITCODE)) { exit $LASTEXITCODE }"
        )


def choose(written: str | None, found: Mapping[str, str]) -> Shell:
    """Return the shell for what a workflow wrote (None: nothing), given the programs found by name.

    Raises `NoShell` when it is not in the machine, belongs to another system, or has no `{0}`.
    """
    if not written or not written.strip():
        return _shell("bash", "bash -e {0}", found) if "bash" in found else _shell("sh", "sh -e {0}", found)
    name = written.strip()
    if name in _TEMPLATES:
        return _shell(name, _TEMPLATES[name], found)
    if name in _ELSEWHERE:
        raise NoShell(
            f"the shell {name!r} exists on Windows only; use bash, sh, python, pwsh or a command with {{0}}"
        )
    if "{0}" not in name:
        known = ", ".join(_TEMPLATES)
        raise NoShell(f"the shell {name!r} is neither one of {known} nor a command with {{0}} for the script")
    try:
        words = tuple(shlex.split(name))
    except ValueError as error:
        raise NoShell(f"the shell {name!r} cannot be read: {error}") from error
    if words[0] in PROBED and words[0] not in found:
        raise NoShell(_absent(words[0]))
    return Shell(display=name, words=words, suffix=_SUFFIXES.get(words[0], ""), kind="")


def _shell(name: str, template: str, found: Mapping[str, str]) -> Shell:
    program = name
    if name == "python" and "python" not in found and "python3" in found:
        program = "python3"
    if program not in found:
        raise NoShell(_absent(name))
    words = tuple(shlex.split(template))
    rest = template.partition(" ")[2]
    return Shell(
        display=f"{found[program]} {rest}",
        words=(found[program], *words[1:]),
        suffix=_SUFFIXES[name],
        kind=name,
    )


def _absent(name: str) -> str:
    return f"the shell {name!r} is not installed in the machine's image; add its package to the image"
