"""Finds the workflow files in a commit, and refuses what no workflow file may be, with a reason."""

from __future__ import annotations

import msgspec

from runnerd.git.objects import Objects, TooLarge

FILE_BYTES = 1 << 20
FILES = 100

_TREE_BYTES = 1 << 20


class Refused(msgspec.Struct, frozen=True):
    """A workflow file that is not read, and why."""

    reason: str


async def read_workflow_files(objects: Objects, sha: str, folder: str) -> dict[str, bytes | Refused]:
    """Return the files by path: regular files directly in the folder whose names end in .yml or .yaml.

    A symlink, a submodule, a name that is not printable text, a file over 1 MiB and what is beyond
    100 files is there as `Refused`. A commit without the folder, or with something else in its place,
    has none. `sha` and `folder` were checked by the caller; no process is started for a file.
    """
    entries = await objects.tree(f"{sha}:{folder}", limit=_TREE_BYTES) or []
    files: dict[str, bytes | Refused] = {}
    for entry in entries:
        if not entry.name.endswith((b".yml", b".yaml")) or entry.mode == "40000":
            continue
        name = entry.name.decode(errors="replace")
        path = f"{folder}/{''.join(c if c.isprintable() else '?' for c in name)}"
        if name.encode() != entry.name or not name.isprintable():
            files[path] = Refused("its name is not printable text")
        elif entry.mode not in ("100644", "100755"):
            kind = {"120000": "a symbolic link", "160000": "a submodule"}.get(entry.mode, "no regular file")
            files[path] = Refused(f"it is {kind}; a workflow must be a regular file")
        elif len(files) >= FILES:
            files[path] = Refused(f"there are more than {FILES} workflow files")
        else:
            files[path] = await _blob(objects, entry.sha)
    return files


async def _blob(objects: Objects, sha: str) -> bytes | Refused:
    try:
        answer = await objects.read(sha, limit=FILE_BYTES)
    except TooLarge:
        return Refused(f"it is larger than {FILE_BYTES >> 20} MiB")
    if answer is None or answer[0].kind != "blob":
        return Refused("its content is not in the repository")
    return answer[1]
