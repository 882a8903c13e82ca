"""Mirrors of real repositories."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from runnerd.git import mirror
from runnerd.git.mirror import Mirrors
from runnerd.git.process import GitError
from runnerd.model import Repository

REPOSITORY = Repository(id=7, full_name="octo/hello")


async def test_a_fetched_ref_is_resolved(mirrors, origin):
    """After a fetch the ref names the remote's commit, which is in the mirror."""
    sha = origin.commit()
    await mirrors.fetch(REPOSITORY, "refs/heads/main")
    assert await mirrors.resolve(REPOSITORY, "refs/heads/main") == sha
    assert await mirrors.has(REPOSITORY, sha)


async def test_a_commit_is_fetched_by_its_id(mirrors, origin):
    """A commit no ref names any more is still had, as after a force push."""
    lost = origin.commit("lost")
    origin.git("commit", "--amend", "--allow-empty", "-m", "kept")
    await mirrors.fetch(REPOSITORY, lost)
    assert await mirrors.has(REPOSITORY, lost)


async def test_what_the_remote_does_not_have_is_no_error(mirrors, origin):
    """Missing refs resolve to None, missing commits are not there, and the others arrive all the same."""
    sha = origin.commit()
    await mirrors.fetch(REPOSITORY, "refs/pull/7/merge", "refs/heads/gone", "refs/heads/main", "1" * 40)
    assert await mirrors.resolve(REPOSITORY, "refs/pull/7/merge") is None
    assert await mirrors.resolve(REPOSITORY, "refs/heads/main") == sha
    assert not await mirrors.has(REPOSITORY, "1" * 40)


async def test_a_deleted_branch_is_forgotten(mirrors, origin):
    """Once a fetch found it gone, a ref resolves to None."""
    origin.commit()
    origin.git("branch", "topic")
    await mirrors.fetch(REPOSITORY, "refs/heads/topic")
    origin.git("branch", "-D", "topic")
    await mirrors.fetch(REPOSITORY, "refs/heads/topic")
    assert await mirrors.resolve(REPOSITORY, "refs/heads/topic") is None


async def test_a_branch_may_become_a_folder_of_branches(mirrors, origin):
    """`a` deleted and `a/b` created, in this order, is an ordinary day."""
    sha = origin.commit()
    origin.git("branch", "a")
    await mirrors.fetch(REPOSITORY, "refs/heads/a")
    await mirrors.fetch_all(REPOSITORY)
    origin.git("branch", "-D", "a")
    origin.git("branch", "a/b")
    await mirrors.fetch(REPOSITORY, "refs/heads/a/b")
    await mirrors.fetch_all(REPOSITORY)
    assert await mirrors.resolve(REPOSITORY, "refs/heads/a/b") == sha
    assert set(await mirrors.refs_of(REPOSITORY)) == {"refs/heads/main", "refs/heads/a/b"}


async def test_a_forced_branch_follows(mirrors, origin):
    """A ref that went back is taken as the remote has it."""
    old = origin.commit("one")
    origin.commit("two")
    await mirrors.fetch(REPOSITORY, "refs/heads/main")
    origin.git("reset", "--hard", "-q", old)
    await mirrors.fetch(REPOSITORY, "refs/heads/main")
    assert await mirrors.resolve(REPOSITORY, "refs/heads/main") == old


async def test_an_annotated_tag_resolves_to_its_commit(mirrors, origin):
    """`resolve` peels a tag, `target` says the tag object."""
    sha = origin.commit()
    origin.git("tag", "-a", "v1", "-m", "one")
    await mirrors.fetch(REPOSITORY, "refs/tags/v1")
    assert await mirrors.resolve(REPOSITORY, "refs/tags/v1") == sha
    assert await mirrors.target(REPOSITORY, "refs/tags/v1") == origin.git("rev-parse", "v1")


@pytest.mark.parametrize(
    "wanted", ["--upload-pack=touch x", "main", "-c", "refs/heads/a:refs/heads/b", "HEAD"]
)
async def test_nothing_but_a_ref_or_a_commit_is_asked_for(mirrors, origin, wanted):
    """Options, short names and refspecs are refused before git sees them."""
    with pytest.raises(GitError):
        await mirrors.fetch(REPOSITORY, wanted)


async def test_a_remote_that_cannot_be_reached_is_said(tmp_path):
    """A missing remote raises a sentence with git's own reason."""
    async with Mirrors(tmp_path, remote_of=lambda name: "/nowhere/at/all") as mirrors:
        with pytest.raises(GitError, match="/nowhere/at/all"):
            await mirrors.fetch(REPOSITORY, "refs/heads/main")


async def test_a_command_as_a_remote_is_never_run(tmp_path):
    """`ext::` is refused by us and would be refused by git."""
    marker = tmp_path / "ran"
    async with Mirrors(tmp_path / "m", remote_of=lambda name: f"ext::touch {marker}") as mirrors:
        with pytest.raises(GitError):
            await mirrors.fetch(REPOSITORY, "refs/heads/main")
        with pytest.raises(GitError, match="not allowed"):
            await mirrors.git.run("fetch", f"ext::touch {marker}", cwd=mirrors.folder(REPOSITORY), timeout=10)
    assert not marker.exists()


async def test_the_remote_and_its_login_are_not_written_down(tmp_path, origin):
    """Nothing in the mirror's folder holds the token or the remote."""
    origin.commit()
    remote = str(origin.folder)
    async with Mirrors(
        tmp_path / "m", remote_of=lambda name: remote, credential=known_as("me", "ghs_secret")
    ) as mirrors:
        await mirrors.fetch(REPOSITORY, "refs/heads/main")
        for path in mirrors.folder(REPOSITORY).rglob("*"):
            assert not path.is_file() or b"ghs_secret" not in path.read_bytes()
        assert remote not in (mirrors.folder(REPOSITORY) / "config").read_text()


async def test_many_fetches_at_once_are_one_after_the_other(mirrors, origin):
    """Ten tasks that want the same new commit all find it."""
    sha = origin.commit()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(mirrors.fetch, REPOSITORY, sha, "refs/heads/main")
    assert await mirrors.has(REPOSITORY, sha)


async def test_a_mirror_outlives_its_daemon(tmp_path, origin):
    """Another `Mirrors` on the same folder reads what the first fetched, without the remote."""
    sha = origin.commit()
    remote = str(origin.folder)
    async with Mirrors(tmp_path / "m", remote_of=lambda name: remote) as first:
        await first.fetch(REPOSITORY, sha)
    async with Mirrors(tmp_path / "m", remote_of=lambda name: "/nowhere") as second:
        assert await second.has(REPOSITORY, sha)


async def test_what_a_killed_git_left_is_swept(tmp_path, origin):
    """Old lock files and half packs are gone at the first use; new ones may belong to a living git."""
    origin.commit()
    remote = str(origin.folder)
    async with Mirrors(tmp_path / "m", remote_of=lambda name: remote) as first:
        await first.fetch(REPOSITORY, "refs/heads/main")
        folder = first.folder(REPOSITORY)
    old, half, new = folder / "packed-refs.lock", folder / "objects/pack/tmp_pack_x", folder / "HEAD.lock"
    for path in (old, half, new):
        path.touch()
    for path in (old, half):
        os.utime(path, (0, 0))
    async with Mirrors(tmp_path / "m", remote_of=lambda name: remote) as second:
        await second.fetch(REPOSITORY, "refs/heads/main")
    assert (old.exists(), half.exists(), new.exists()) == (False, False, True)


async def test_half_a_mirror_is_made_again(tmp_path, origin):
    """A mirror is there whole or not at all: what an interrupted start left is replaced."""
    sha = origin.commit()
    remote = str(origin.folder)
    left_over = tmp_path / "m/octo/hello/.7.git.new"
    left_over.mkdir(parents=True)
    (left_over / "HEAD").write_text("rubbish")
    async with Mirrors(tmp_path / "m", remote_of=lambda name: remote) as mirrors:
        await mirrors.fetch(REPOSITORY, sha)
        assert await mirrors.has(REPOSITORY, sha)


async def test_packs_and_slots_stay_few(mirrors, origin, monkeypatch):
    """Many small fetches are packed together now and then, and lose nothing."""
    monkeypatch.setattr(mirror, "_PACKS_BEFORE_REPACK", 3)
    monkeypatch.setattr(mirror, "_SLOTS_KEPT", 4)
    shas = []
    for number in range(8):
        origin.put("file", f"{number}" * 100)
        shas.append(origin.commit(str(number)))
        await mirrors.fetch(REPOSITORY, shas[-1])
    folder = mirrors.folder(REPOSITORY)
    assert len(list((folder / "objects/pack").glob("*.pack"))) <= 4
    assert len(list((folder / "refs/runnerd/one").iterdir())) <= 4
    assert all([await mirrors.has(REPOSITORY, sha) for sha in shas])


async def test_workflow_files_are_read_at_the_commit(mirrors, origin):
    """Only .yml and .yaml directly in the folder, as they were at that commit."""
    origin.put(".github/workflows/ci.yml", "on: push\n")
    origin.put(".github/workflows/more.yaml", "on: pull_request\n", mode=0o755)
    origin.put(".github/workflows/README.md", "no")
    origin.put(".github/workflows/deep/x.yml", "no")
    origin.put(".github/workflows/folder.yml/x.yml", "no")
    first = origin.commit()
    origin.put(".github/workflows/ci.yml", "changed")
    origin.commit()
    await mirrors.fetch(REPOSITORY, "refs/heads/main")
    assert await mirrors.workflow_files(REPOSITORY, first) == {
        ".github/workflows/ci.yml": b"on: push\n",
        ".github/workflows/more.yaml": b"on: pull_request\n",
    }


async def test_reading_from_a_commit_that_is_not_there_raises(mirrors, origin):
    """No workflow files and no commit are told apart."""
    origin.commit()
    with pytest.raises(GitError, match="fetch it first"):
        await mirrors.workflow_files(REPOSITORY, "4" * 40)


async def test_reading_workflow_files_starts_no_process(mirrors, origin, monkeypatch):
    """With a reader running, another commit's files are read in milliseconds, without a spawn."""
    shas = []
    for number in range(20):
        origin.put(".github/workflows/ci.yml", f"on: push # {number}\n")
        shas.append(origin.commit(str(number)))
    await mirrors.fetch(REPOSITORY, "refs/heads/main")
    await mirrors.workflow_files(REPOSITORY, shas[0])

    async def refuse(*_args, **_kwargs):
        raise AssertionError("a process was started")

    monkeypatch.setattr(trio.lowlevel, "open_process", refuse)
    took = []
    for sha in shas[1:]:
        began = time.perf_counter()
        assert await mirrors.workflow_files(REPOSITORY, sha)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.02  # a cost of ours would be in every one, that of a busy host is not


async def test_changed_files_of_a_push(mirrors, origin):
    """Added, changed and removed paths, and both names of a rename."""
    origin.write(kept="same", gone="x", changed="a", old="a long enough text to be a rename\n" * 5)
    base = origin.commit()
    (origin.folder / "gone").unlink()
    (origin.folder / "old").rename(origin.folder / "new")
    origin.write(changed="b")
    origin.put("dir/ä b", "new")
    head = origin.commit()
    await mirrors.fetch(REPOSITORY, "refs/heads/main")
    changed = await mirrors.changed_files(REPOSITORY, base, head)
    assert changed == ("changed", "dir/ä b", "gone", "new", "old")


async def test_changed_files_of_a_pull_request_start_where_it_parted(mirrors, origin):
    """What the base branch did since is not the pull request's change."""
    origin.write(a="1")
    origin.commit()
    origin.git("switch", "-q", "-c", "topic")
    origin.write(b="1")
    head = origin.commit()
    origin.git("switch", "-q", "main")
    origin.write(c="1")
    base = origin.commit()
    await mirrors.fetch(REPOSITORY, base, head)
    assert await mirrors.changed_files(REPOSITORY, base, head, merge_base=True) == ("b",)
    assert await mirrors.changed_files(REPOSITORY, base, head) == ("b", "c")


async def test_changed_files_of_a_forced_push(mirrors, origin):
    """The tip that was pushed away is fetched by its id."""
    origin.write(a="1")
    start = origin.commit()
    origin.write(b="1")
    lost = origin.commit()
    origin.git("reset", "--hard", "-q", start)
    origin.write(c="1")
    head = origin.commit()
    await mirrors.fetch(REPOSITORY, "refs/heads/main")
    assert not await mirrors.has(REPOSITORY, lost)
    assert await mirrors.changed_files(REPOSITORY, lost, head) == ("b", "c")


async def test_a_diff_that_cannot_be_made_is_none(mirrors, origin):
    """A new branch, a commit that is gone and unrelated histories leave path filters without a say."""
    head = origin.commit()
    origin.git("switch", "-q", "--orphan", "other")
    other = origin.commit("unrelated")
    await mirrors.fetch(REPOSITORY, head, other)
    assert await mirrors.changed_files(REPOSITORY, None, head) is None
    assert await mirrors.changed_files(REPOSITORY, "0" * 40, head) is None
    assert await mirrors.changed_files(REPOSITORY, "9" * 40, head) is None
    assert await mirrors.changed_files(REPOSITORY, head, other, merge_base=True) is None


async def test_a_diff_over_too_many_commits_is_none(mirrors, origin, monkeypatch):
    """Past the cap the files are not compared, as at GitHub."""
    monkeypatch.setattr(mirror, "CHANGED_COMMITS", 2)
    base = origin.commit()
    near, far = [origin.commit(str(n)) for n in range(3)][1:]
    await mirrors.fetch(REPOSITORY, "refs/heads/main")
    assert await mirrors.changed_files(REPOSITORY, base, near) == ()
    assert await mirrors.changed_files(REPOSITORY, base, far) is None


async def test_an_export_is_made_once(mirrors, origin, tmp_path, monkeypatch):
    """A second leg of a matrix gets the same tar without a process; the callers' names are their own."""
    origin.write(a="1")
    sha = origin.commit()
    await mirrors.fetch(REPOSITORY, "refs/heads/main")
    made = []
    original = mirror.pack_work_tree

    async def count(*args, **kwargs):
        made.append(1)
        await original(*args, **kwargs)

    monkeypatch.setattr(mirror, "pack_work_tree", count)
    paths = [tmp_path / f"{n}.tar" for n in range(5)]
    async with trio.open_nursery() as nursery:
        for path in paths:
            nursery.start_soon(_export, mirrors, sha, path)
    paths[0].unlink()
    assert len({path.read_bytes() for path in paths[1:]}) == 1
    assert made == [1]


async def test_an_export_of_a_commit_that_is_not_there_raises(mirrors, origin, tmp_path):
    """The sentence says to fetch first."""
    origin.commit()
    with pytest.raises(GitError, match="fetch it first"):
        await mirrors.export(REPOSITORY, "5" * 40, into=tmp_path / "x.tar")


async def test_a_repository_never_reads_anothers_mirror(mirrors, origin):
    """The same name with another number starts empty."""
    sha = origin.commit()
    await mirrors.fetch(REPOSITORY, sha)
    assert not await mirrors.has(Repository(id=8, full_name="octo/hello"), sha)


async def test_a_private_remote_over_http_gets_the_token(tmp_path, origin):
    """git logs in at an HTTP remote with the credential, which shows in no process's arguments."""
    origin.write(a="1")
    sha = origin.commit()
    seen = tmp_path / "seen"
    with serving(origin.folder / ".git", tmp_path, "me:ghs_secret") as port:
        async with Mirrors(
            tmp_path / "m",
            remote_of=lambda name: f"http://127.0.0.1:{port}/repo",
            credential=known_as("me", "ghs_secret"),
            environ={"PATH": _recording_git(tmp_path, seen) + ":" + os.environ["PATH"]},
        ) as mirrors:
            await mirrors.fetch(REPOSITORY, "refs/heads/main")
            assert await mirrors.has(REPOSITORY, sha)
    assert "fetch" in seen.read_text()
    assert "ghs_secret" not in seen.read_text()


async def test_a_wrong_token_fails_at_once(tmp_path, origin):
    """Nobody is asked for a password; the error says that authentication failed."""
    origin.commit()
    with serving(origin.folder / ".git", tmp_path, "me:right") as port:
        async with Mirrors(
            tmp_path / "m",
            remote_of=lambda name: f"http://127.0.0.1:{port}/repo",
            credential=known_as("me", "wrong"),
        ) as mirrors:
            with pytest.raises(GitError, match="Authentication failed"):
                await mirrors.fetch(REPOSITORY, "refs/heads/main")


async def _export(mirrors: Mirrors, sha: str, into: Path) -> None:
    await mirrors.export(REPOSITORY, sha, ref="refs/heads/main", into=into)


def _recording_git(folder: Path, seen: Path) -> str:
    """A folder for PATH whose git notes arguments and environment before it is git."""
    real = subprocess.run(
        ["sh", "-c", "command -v git"], capture_output=True, text=True, check=True
    ).stdout.strip()
    place = folder / "bin"
    place.mkdir()
    (place / "git").write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} >> {seen}\nexec {real} "$@"\n')
    (place / "git").chmod(0o755)
    return str(place)


def known_as(user, password):
    async def credential(repository):
        return user, password

    return credential


class serving:
    """A repository over plain HTTP on this host, by `git http-backend`, for one user and password."""

    def __init__(self, repository: Path, folder: Path, login: str) -> None:
        self._script = folder / "server.py"
        self._script.write_text(SERVER)
        self._arguments = [str(repository), login]

    def __enter__(self) -> int:
        self._process = subprocess.Popen(
            [sys.executable, str(self._script), *self._arguments], stdout=subprocess.PIPE, text=True
        )
        return int(self._process.stdout.readline())

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


SERVER = """
import base64, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

repository, login = sys.argv[1:]
expected = "Basic " + base64.b64encode(login.encode()).decode()

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        env = {
            "PATH": os.environ["PATH"], "GIT_HTTP_EXPORT_ALL": "1", "REQUEST_METHOD": self.command,
            "GIT_PROJECT_ROOT": repository, "PATH_INFO": path.removeprefix("/repo"), "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""), "REMOTE_USER": "me",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        }
        answer = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True).stdout
        head, _, content = answer.partition(b"\\r\\n\\r\\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\\r\\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
