"""What a workflow sees of its run: the contexts `github` and `runner`, and the runner's variables. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runnerd.machines.driver import Paths
from runnerd.model import Event, RunRecord
from runnerd.workflow.model import Workflow

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# GITHUB_* variables, by the name in the `github` context; `workflow.md` lists where each comes from.
_VARIABLES = (
    "action",
    "action_path",
    "action_ref",
    "action_repository",
    "actor",
    "actor_id",
    "api_url",
    "base_ref",
    "event_name",
    "event_path",
    "graphql_url",
    "head_ref",
    "job",
    "ref",
    "ref_name",
    "ref_protected",
    "ref_type",
    "repository",
    "repository_id",
    "repository_owner",
    "repository_owner_id",
    "retention_days",
    "run_attempt",
    "run_id",
    "run_number",
    "server_url",
    "sha",
    "triggering_actor",
    "workflow",
    "workflow_ref",
    "workflow_sha",
    "workspace",
)

FILES = {
    "GITHUB_ENV": "set_env",
    "GITHUB_OUTPUT": "set_output",
    "GITHUB_PATH": "add_path",
    "GITHUB_STATE": "save_state",
    "GITHUB_STEP_SUMMARY": "step_summary",
}
"""The files of a step: the variable with the path of each, and how its name begins."""

RUNNERS_OWN = frozenset(
    {
        *(f"GITHUB_{name.upper()}" for name in _VARIABLES),
        *(f"RUNNER_{name}" for name in ("ARCH", "DEBUG", "ENVIRONMENT", "NAME", "OS", "TEMP")),
        *FILES,
        "GITHUB_ACTIONS",
        "RUNNER_TOOL_CACHE",
        "RUNNER_WORKSPACE",
    }
)
"""Variables that are the runner's own, whatever a workflow or a step says."""


def github_context(
    event: Event,
    run: RunRecord | None = None,
    job: str = "",
    *,
    workflow: Workflow | None = None,
    payload: Mapping[str, Any] | None = None,
    server_url: str = "https://github.com",
    api_url: str = "https://api.github.com",
    token: str = "",
) -> dict[str, Any]:
    """Return the `github` context of a job; of a whole run where `job` is empty.

    While a run is only planned `run` is None and `workflow` names the file. `payload` is `github.event`,
    where `event` does not carry it. Numbers are text, as GitHub has them. The machine's paths come later.
    """
    path = run.workflow_path if run else workflow.path if workflow else ""
    name = run.workflow_name if run else workflow.name if workflow else ""
    body = payload if payload is not None else event.payload
    server = server_url.rstrip("/")
    api = api_url.rstrip("/")
    return {
        "action": "",
        "action_path": "",
        "action_ref": "",
        "action_repository": "",
        "actor": event.sender.login,
        "actor_id": str(event.sender.id),
        "api_url": api,
        "base_ref": event.base_ref,
        "event": dict(body),
        "event_name": event.name,
        "event_path": "",
        "graphql_url": f"{api.removesuffix('/v3')}/graphql",
        "head_ref": event.head_ref,
        "job": job,
        "ref": event.ref,
        "ref_name": ref_name(event.ref),
        "ref_protected": False,
        "ref_type": "tag" if event.ref.startswith("refs/tags/") else "branch",
        "repository": event.repository.full_name,
        "repository_id": str(event.repository.id),
        "repository_owner": event.repository.owner,
        "repository_owner_id": _owner_id(body),
        "repositoryUrl": f"git://{server.partition('://')[2]}/{event.repository.full_name}.git",
        "retention_days": "90",
        "run_attempt": str(run.attempt if run else 1),
        "run_id": str(run.id if run else 0),
        "run_number": str(run.number if run else 0),
        "secret_source": "None" if event.fork else "Actions",
        "server_url": server,
        "sha": event.sha,
        "token": token,
        "triggering_actor": event.sender.login,
        "workflow": name,
        "workflow_ref": f"{event.repository.full_name}/{path}@{event.ref}",
        "workflow_sha": event.sha,
        "workspace": "",
    }


def job_context(github: Mapping[str, Any], path: str, status: str) -> dict[str, Any]:
    """Return the `job` context: the status so far, and which file the job is written in.

    `path` is that file's as `uses` names it, or its place in the repository. The commit of another
    repository's file is not known here, and empty.
    """
    name, at, ref = path.removeprefix("./").partition("@")
    owner, repository, file = [*name.split("/", 2), "", ""][:3] if at else ("", "", name)
    home = f"{owner}/{repository}" if at else str(github.get("repository", ""))
    return {
        "status": status,
        "workflow_file_path": file,
        "workflow_ref": f"{home}/{file}@{ref if at else github.get('ref', '')}",
        "workflow_repository": home,
        "workflow_sha": "" if at else github.get("workflow_sha", ""),
    }


def ref_name(ref: str) -> str:
    """Return a ref as people say it: a branch, a tag, `7/merge`."""
    for prefix in ("refs/heads/", "refs/tags/", "refs/pull/"):
        if ref.startswith(prefix):
            return ref.removeprefix(prefix)
    return ref


def workspace(paths: Paths, repository: str) -> str:
    """Return GITHUB_WORKSPACE: the folder a job starts in, empty until a checkout."""
    name = repository.rpartition("/")[2] or "repository"
    return f"{paths.work}/{name}/{name}"


def runner_context(paths: Paths, name: str, *, debug: bool = False) -> dict[str, Any]:
    """Return the `runner` context of a machine."""
    context = {
        "name": name,
        "os": "Linux",
        "arch": "X64",
        "environment": "self-hosted",
        "temp": paths.temp,
        "tool_cache": paths.tools,
    }
    return context | ({"debug": "1"} if debug else {})


def base_environment(paths: Paths) -> dict[str, str]:
    """Return what every process in the machine has before anything of GitHub's."""
    return {
        "HOME": paths.home,
        "USER": "runner",
        "LOGNAME": "runner",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "PATH": f"{paths.home}/.local/bin:{SEARCH_PATH}",
        "CI": "true",
    }


def runner_environment(
    github: Mapping[str, Any], runner: Mapping[str, Any], paths: Paths, files: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables that are the runner's own, which no `env` changes.

    `files` are the files of this step by variable, such as GITHUB_OUTPUT.
    """
    variables = {f"GITHUB_{key.upper()}": _text(github.get(key)) for key in _VARIABLES}
    variables |= {f"RUNNER_{key.upper()}": str(value) for key, value in runner.items()}
    variables |= {
        "GITHUB_ACTIONS": "true",
        "RUNNER_WORKSPACE": str(github.get("workspace", "")).rpartition("/")[0],
    }
    return variables | dict(files)


def process_environment(
    paths: Paths,
    *,
    host: Mapping[str, str],
    environment: Mapping[str, str],
    search: Sequence[str],
    github: Mapping[str, Any],
    runner: Mapping[str, Any],
    files: Mapping[str, str],
) -> dict[str, str]:
    """Return the whole environment of a step's process, from what weighs least to the runner's own.

    `host` is what the host gives to every process, `environment` every `env` and GITHUB_ENV, `search` the
    folders that steps put before PATH.
    """
    merged = base_environment(paths) | dict(host) | dict(environment)
    merged["PATH"] = ":".join([*search, merged["PATH"]])
    return merged | runner_environment(github, runner, paths, files)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _owner_id(payload: Mapping[str, Any]) -> str:
    repository = payload.get("repository")
    owner = repository.get("owner") if isinstance(repository, dict) else None
    number = owner.get("id") if isinstance(owner, dict) else None
    return str(number) if isinstance(number, int) else ""
