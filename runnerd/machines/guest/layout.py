"""A job's folders and empty files, all made by one request, and where its programs are."""

from __future__ import annotations

import os
import stat
from itertools import groupby
from typing import Any

from .agent import Agent


def lay_out(agent: Agent, stream: int, request: dict[str, Any]) -> dict[str, Any]:
    """Operation `lay_out`: folders, files, user, programs, search (as PATH is written).

    Files are made empty, whatever had their name. Answers `found`: the path of each program there is.
    """
    user = int(request["user"]) if agent.init else None
    for path in request["folders"]:
        os.close(agent.files.folder(str(path), user))
    for above, files in groupby(map(str, request["files"]), os.path.dirname):
        folder = agent.files.folder(above, user)
        try:
            for path in files:
                _make(folder, os.path.basename(path), user)
        finally:
            os.close(folder)
    # What is no absolute path means another folder for each command, so nothing is said of it.
    search = [folder for folder in str(request["search"]).split(":") if folder.startswith("/")]
    found = {}
    for program in map(str, request["programs"]):
        for path in (f"{folder}/{program}" for folder in search):
            if _runs(agent, path):
                found[program] = path
                break
    return {"found": found}


def _make(folder: int, name: str, user: int | None) -> None:
    """An empty file in place of whatever had this name; a link is replaced, not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        fd = os.open(name, flags, 0o644, dir_fd=folder)
    except FileExistsError:
        os.unlink(name, dir_fd=folder)
        fd = os.open(name, flags, 0o644, dir_fd=folder)
    try:
        if user is not None:
            os.fchown(fd, user, user)
    finally:
        os.close(fd)


def _runs(agent: Agent, path: str) -> bool:
    """Whether a program is there, in the root that jobs run in."""
    try:
        found = os.stat(path) if agent.job_root is None else agent.files.stat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and bool(found.st_mode & 0o111)
