"""The shell with which a person looks at a job's machine as it was before a step. Pure.

It stands where the step would have: in the workspace, with the job's environment as it was then and the
step's own files. What the step's own `env` says, and secrets, are not given to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runnerd.jobs import contexts
from runnerd.jobs.standing import Standing
from runnerd.jobs.workplace import Workplace
from runnerd.machines.driver import Command, Machine

READY = b"\0"
"""What a plain shell shows first: whatever is typed from then on is not shown back."""
_PLAIN = 'stty -echo -onlcr 2>/dev/null; printf "\\0"; exec "$1" /dev/stdin'


def shell_of(
    standing: Standing,
    machine: Machine,
    *,
    github: Mapping[str, Any],
    host: Mapping[str, str],
    term: str,
    plain: bool,
) -> Command:
    """Return the command for a machine that is as the job's was when it stood so.

    `github` is the job's context without the machine's paths, `host` what the host gives to every process.
    A `plain` shell reads a script from its terminal: it has no prompt, and ends with the script's status.
    """
    paths = machine.paths
    workspace = contexts.workspace(paths, str(github.get("repository", "")))
    place = Workplace(machine, workspace, {})
    environment = contexts.process_environment(
        paths,
        host=host,
        environment={**standing.shown.given, **standing.shown.written},
        search=standing.shown.paths,
        github={**github, "workspace": workspace, "event_path": place.event_path},
        runner=contexts.runner_context(paths, machine.id),
        files=place.files(standing.before),
    )
    sh = standing.shells.get("sh", "/bin/sh")
    shell = standing.shells.get("bash", sh)
    argv = (sh, "-c", _PLAIN, "runnerd", shell) if plain else (shell,)
    return Command(argv=argv, env={**environment, "TERM": term}, cwd=workspace)
