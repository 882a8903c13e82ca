"""hashFiles over a folder."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import runnerd.jobs
from runnerd.jobs import hashing
from runnerd.jobs.hashing import hash_files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "ro[o]t"
    for name in (
        "a.lock",
        "b.lock",
        ".hidden.lock",
        "sub/c.lock",
        "sub/deep/d.lock",
        "sub/e.txt",
        "node_modules/f.lock",
    ):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return place


def expected(root: Path, *names: str) -> str:
    digests = [hashlib.sha256((root / name).read_bytes()).digest() for name in names]
    return hashlib.sha256(b"".join(digests)).hexdigest()


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["a.lock"], ["a.lock"]),
        (["*.lock"], [".hidden.lock", "a.lock", "b.lock"]),
        (
            ["**/*.lock", "!node_modules"],
            [".hidden.lock", "a.lock", "b.lock", "sub/c.lock", "sub/deep/d.lock"],
        ),
        (
            ["**/*.lock\n!**/node_modules/**\n# a comment\n\n"],
            [".hidden.lock", "a.lock", "b.lock", "sub/c.lock", "sub/deep/d.lock"],
        ),
        (["sub"], ["sub/c.lock", "sub/deep/d.lock", "sub/e.txt"]),
        (["sub/"], ["sub/c.lock", "sub/deep/d.lock", "sub/e.txt"]),
        (["b.lock", "a.lock"], ["b.lock", "a.lock"]),
        (["./sub/**/d.lock"], ["sub/deep/d.lock"]),
        (["?.lock"], ["a.lock", "b.lock"]),
        (["[ab].lock"], ["a.lock", "b.lock"]),
        (["[!a].lock"], ["b.lock"]),
        (["**/c.lock", "sub/e.*"], ["sub/c.lock", "sub/e.txt"]),
        (["**", "!**", "a.lock"], ["a.lock"]),
        (["!!a.lock"], ["a.lock"]),
        (["**/deep/**"], ["sub/deep/d.lock"]),
    ],
)
def test_patterns_find_files_in_order(root, patterns, names):
    """Order of search, dot files, negation, folders, classes, comments: as GitHub's."""
    assert hash_files(patterns, root) == expected(root, *names)


@pytest.mark.parametrize("patterns", [["*.absent"], [], ["# only a comment"], ["!a.lock"], ["/etc/passwd"]])
def test_nothing_found_is_empty(root, patterns):
    """No match, only negation, or files outside the folder give the empty text."""
    assert hash_files(patterns, root) == ""


def test_a_pattern_may_be_absolute_inside_the_folder(root):
    """`${{ github.workspace }}/a.lock` is common."""
    escaped = str(root).replace("[", "[[]")
    assert hash_files([f"{escaped}/a.lock"], root) == expected(root, "a.lock")


def test_a_pattern_with_dots_is_refused(root):
    """Nothing outside can be named."""
    with pytest.raises(ValueError, match=r"'\.\./x' must not hold"):
        hash_files(["../x"], root)


def test_links_are_files_and_folders_behind_them_are_not_entered(root):
    """A link to a file counts by its content, a link to a folder only when asked for; circles end."""
    (root / "link.lock").symlink_to("a.lock")
    (root / "broken.lock").symlink_to("nowhere")
    (root / "loop").symlink_to(".")
    (root / "sub/up").symlink_to("..")
    assert hash_files(["[bl]*.lock"], root) == expected(root, "b.lock", "a.lock")
    assert hash_files(["loop/a.lock"], root, follow_links=True) == expected(root, "a.lock")
    assert len(hash_files(["**"], root, follow_links=True)) == 64


def test_a_large_file_is_read_in_pieces(root):
    """The hash is that of the whole content."""
    (root / "big").write_bytes(os.urandom(3 << 20))
    assert hash_files(["big"], root) == expected(root, "big")


def test_the_same_text_runs_in_a_machine(root):
    """As `python3 -c TEXT ROOT PATTERN…` it prints the same hash; an error is its last word."""
    source = Path(hashing.__file__).read_text()
    command = [sys.executable, "-I", "-c", source, str(root)]
    out = subprocess.run([*command, "**/*.lock"], capture_output=True, text=True, check=True).stdout
    assert out.strip() == hash_files(["**/*.lock"], root)
    bad = subprocess.run([*command, "../x"], capture_output=True, text=True, check=False)
    assert (bad.returncode, "must not hold" in bad.stderr) == (1, True)


def test_following_links_is_asked_for_first(root):
    """`--follow-symbolic-links` before the patterns, as at GitHub."""
    (root / "l").symlink_to("sub")
    source = Path(hashing.__file__).read_text()
    command = [sys.executable, "-I", "-c", source, str(root), "--follow-symbolic-links", "l/e.txt"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.strip() == expected(root, "sub/e.txt")


def test_it_is_offered_to_tools():
    """`runnerd.jobs.hash_files` is this function."""
    assert runnerd.jobs.hash_files is hash_files
