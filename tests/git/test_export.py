"""Work trees packed on the host, unpacked and looked at with git."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from runnerd.git import export
from runnerd.git.export import Limits, Source, pack_git_folder, pack_work_tree, tar
from runnerd.git.objects import Objects
from runnerd.git.process import Git, GitError

URL = "https://github.com/octo/hello"


@pytest.fixture
async def pack(origin, tmp_path):
    """Pack a commit of the origin, unpack it, and return the folder."""
    git = Git(os.environ)
    objects = Objects(git, origin.folder / ".git")
    count = 0

    async def pack(source: Source, limits: Limits = export.DEFAULTS) -> Path:
        nonlocal count
        count += 1
        archive, place = tmp_path / f"{count}.tar", tmp_path / f"out{count}"
        await pack_work_tree(git, objects, origin.folder / ".git", source, archive, limits=limits)
        place.mkdir()
        with tarfile.open(archive) as opened:
            opened.extractall(place, filter="tar")
        return place

    yield pack
    await objects.close()


def git(place: Path, *arguments: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "GIT_CONFIG_COUNT": "1"}
    env |= {"GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    done = subprocess.run(
        ["git", *arguments], cwd=place, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def test_a_branch_is_checked_out_at_depth_one(pack, origin):
    """Files, modes and links are there; git sees a clean tree on the branch with one commit."""
    origin.write(first="1")
    origin.commit("one")
    origin.put("run.sh", "#!/bin/sh\n", mode=0o755)
    origin.put("a b/ü", "text")
    (origin.folder / "link").symlink_to("run.sh")
    sha = origin.commit("two")
    place = await pack(Source(sha=sha, ref="refs/heads/main", url=URL))
    assert git(place, "status", "--porcelain", "--branch") == "## main...origin/main"
    assert git(place, "log", "--format=%H %s") == f"{sha} two"
    assert git(place, "remote", "get-url", "origin") == URL
    assert git(place, "rev-parse", "--is-shallow-repository") == "true"
    assert (place / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (place / "a b/ü").read_text() == "text"
    assert os.readlink(place / "link") == "run.sh"
    assert git(place, "fsck", "--strict") == ""


async def test_a_pull_request_leaves_head_detached(pack, origin):
    """HEAD is the commit, and the merge ref is kept under refs/remotes/pull."""
    sha = origin.commit()
    place = await pack(Source(sha=sha, ref="refs/pull/7/merge", url=URL))
    assert (place / ".git/HEAD").read_text() == f"{sha}\n"
    assert git(place, "rev-parse", "refs/remotes/pull/7/merge") == sha


async def test_a_root_commit_is_not_shallow(pack, origin):
    """A history of one commit is whole."""
    sha = origin.commit()
    place = await pack(Source(sha=sha, ref="refs/heads/main"))
    assert git(place, "rev-parse", "--is-shallow-repository") == "false"


async def test_a_tag_can_be_described(pack, origin):
    """An annotated tag comes with its object, so that `git describe` names it."""
    origin.commit()
    sha = origin.commit()
    origin.git("tag", "-a", "v1.2", "-m", "release")
    place = await pack(Source(sha=sha, ref="refs/tags/v1.2", target=origin.git("rev-parse", "v1.2")))
    assert git(place, "describe") == "v1.2"


async def test_a_deeper_history_is_cut_where_it_was_asked(pack, origin):
    """`fetch-depth: 3` is the commit and two generations before it, through merges."""
    origin.commit("a")
    origin.commit("b")
    origin.git("switch", "-q", "-c", "side")
    origin.write(side="1")
    origin.commit("s")
    origin.git("switch", "-q", "main")
    origin.write(main="1")
    origin.commit("c")
    origin.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    sha = origin.git("rev-parse", "HEAD")
    place = await pack(Source(sha=sha, ref="refs/heads/main", depth=3))
    assert set(git(place, "log", "--format=%s").split()) == {"merge", "c", "s", "b"}
    assert git(place, "fsck") == ""


async def test_the_whole_history_comes_with_branches_and_tags(pack, origin):
    """`fetch-depth: 0` has every commit and every ref, and is not shallow."""
    first = origin.commit("a")
    origin.git("tag", "v0")
    origin.git("branch", "old")
    sha = origin.commit("b")
    refs = {"refs/heads/main": sha, "refs/heads/old": first, "refs/tags/v0": first}
    place = await pack(Source(sha=sha, ref="refs/heads/main", depth=0, refs=refs, url=URL))
    assert git(place, "log", "--format=%s").split() == ["b", "a"]
    assert git(place, "describe", "--tags").startswith("v0-1-g")
    assert git(place, "branch", "-r").split() == ["origin/main", "origin/old"]


async def test_every_file_belongs_to_the_runner(origin, tmp_path):
    """Owner and group are numbers, names are relative, and only files, folders and links are in it."""
    origin.write(a="1")
    sha = origin.commit()
    git, into = Git(os.environ), tmp_path / "x.tar"
    objects = Objects(git, origin.folder / ".git")
    await pack_work_tree(git, objects, origin.folder / ".git", Source(sha=sha), into)
    await objects.close()
    with tarfile.open(into) as opened:
        for member in opened:
            assert (member.uid, member.gid, member.uname) == (1001, 1001, "")
            assert not member.name.startswith("/")
            assert member.isfile() or member.isdir() or member.issym()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


async def test_filters_hooks_and_submodules_of_the_repository_do_nothing(pack, origin, tmp_path):
    """Attributes that name filters, LFS pointers and a submodule are checked out as they are."""
    marker = tmp_path / "ran"
    origin.put(".gitattributes", "* filter=evil\n*.bin filter=lfs diff=lfs merge=lfs\n")
    origin.put(".gitmodules", f'[submodule "x"]\n\tpath = x\n\turl = ext::touch {marker}\n')
    origin.put(".gitconfig", f'[filter "evil"]\n\tsmudge = touch {marker}\n')
    origin.put("a.bin", "version https://git-lfs.github.com/spec/v1\n")
    origin.git("config", "filter.evil.smudge", f"touch {marker}")
    origin.git("config", "filter.evil.clean", "cat")
    hook = origin.folder / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
    hook.chmod(0o755)
    origin.git("update-index", "--add", "--cacheinfo", f"160000,{'6' * 40},x")
    origin.git("add", "--all", "--force")
    origin.git("update-index", "--add", "--cacheinfo", f"160000,{'6' * 40},x")
    origin.git("commit", "-q", "-m", "hostile")
    place = await pack(Source(sha=origin.git("rev-parse", "HEAD"), ref="refs/heads/main"))
    assert not marker.exists()
    assert (place / "a.bin").read_text().startswith("version https://git-lfs")
    assert list((place / "x").iterdir()) == []
    assert not (place / ".git/hooks").exists()


@pytest.mark.parametrize("name", [b"..", b".git", b".GIT", b"git~1"])
async def test_a_tree_that_would_write_elsewhere_is_refused(pack, origin, tmp_path, name):
    """Hand-made trees with names git must not write fail with a sentence and leave nothing behind."""
    inner = origin.git("mktree", "-z", stdin=b"100644 blob %s\towned\0" % origin.blob(b"x").encode())
    raw = b"40000 " + name + b"\0" + bytes.fromhex(inner)
    tree = origin.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw)
    sha = origin.git("commit-tree", tree, "-m", "hostile")
    with pytest.raises(GitError):
        await pack(Source(sha=sha))
    assert not list(tmp_path.rglob("owned"))


async def test_a_tree_bomb_is_refused_before_it_is_written(pack, origin):
    """A few objects that describe a hundred thousand files are counted, not unpacked."""
    blob = origin.blob(b"x")
    tree = origin.git("mktree", stdin="".join(f"100644 blob {blob}\tf{n}\n" for n in range(10)).encode())
    for _ in range(4):
        tree = origin.git("mktree", stdin="".join(f"040000 tree {tree}\td{n}\n" for n in range(10)).encode())
    sha = origin.git("commit-tree", tree, "-m", "bomb")
    with pytest.raises(GitError, match="at most 1000 files"):
        await pack(Source(sha=sha), Limits(files=1000))


async def test_files_too_large_together_are_refused(pack, origin):
    """The size is that of the files, however well they compress."""
    origin.put("zeros", bytes(3 << 20))
    sha = origin.commit()
    with pytest.raises(GitError, match=r"1 files of 3 MiB; at most .* files of 2 MiB"):
        await pack(Source(sha=sha), Limits(size=2 << 20))


async def test_a_depth_past_the_limit_is_refused(pack, origin):
    """A shallow history is walked only so far."""
    for number in range(5):
        sha = origin.commit(str(number))
    with pytest.raises(GitError, match="reaches over 3 commits"):
        await pack(Source(sha=sha, depth=5), Limits(commits=3))


async def test_a_branch_name_cannot_write_configuration(pack, origin):
    """Quotes and brackets in a branch name stay inside its name."""
    sha = origin.commit()
    branch = 'x"]#;$(touch${IFS}y)'.replace("]", "")
    place = await pack(Source(sha=sha, ref=f"refs/heads/{branch}", url=URL))
    assert git(place, "config", f"branch.{branch}.remote") == "origin"
    assert git(place, "symbolic-ref", "HEAD") == f"refs/heads/{branch}"


async def test_an_address_with_a_line_break_is_refused(pack, origin):
    """Nothing can be added to the configuration through the address of origin."""
    sha = origin.commit()
    with pytest.raises(GitError, match="cannot be written"):
        await pack(Source(sha=sha, ref="refs/heads/main", url="https://x\n[core]\n\tsshCommand = id"))


async def test_a_commit_that_is_none_is_refused(pack, origin):
    """A blob's id is not a commit."""
    with pytest.raises(GitError):
        await pack(Source(sha=origin.blob(b"x")))


async def test_a_git_folder_alone_has_the_index_of_its_commit(origin, tmp_path):
    """Without files everything shows as deleted and nothing as staged."""
    origin.write(a="1")
    sha = origin.commit()
    runner = Git(os.environ)
    objects = Objects(runner, origin.folder / ".git")
    await pack_git_folder(runner, objects, origin.folder / ".git", Source(sha=sha), tmp_path / "w/.git")
    await objects.close()
    assert git(tmp_path / "w", "status", "--porcelain") == "D a"


async def test_tar_leaves_no_draft_when_it_fails(tmp_path):
    """A tar that could not be written is not there at all."""
    with pytest.raises(GitError, match="tar"):
        await tar(Git(os.environ), tmp_path / "x.tar", ("-C", tmp_path / "absent", "."))
    assert list(tmp_path.iterdir()) == []
