"""The demo's repository: made, added to, repaired."""

import subprocess
from pathlib import Path

import pytest

from runnerd.cli import demo_sample
from runnerd.git.process import GitError


def log(path: Path) -> list[str]:
    command = ["git", "-C", str(path), "log", "--format=%s %an", demo_sample.BRANCH]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_each_demo_adds_a_commit(tmp_path: Path) -> None:
    """The first call makes the repository, later ones add commits; the workflow and its script are in it."""
    path = tmp_path / "deep" / "sample"
    demo_sample.make(path, stamp="one")
    demo_sample.make(path, stamp="two")
    assert log(path) == ["Say hello at two Demo", "Say hello at one Demo"]
    command = ["git", "-C", str(path), "ls-tree", "-r", "--format=%(objectmode) %(path)", "HEAD"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "100644 .github/workflows/hello.yml" in listing
    assert "100755 where.sh" in listing


def test_broken_repository_is_made_anew(tmp_path: Path) -> None:
    """A repository that was damaged is replaced, and the user is told."""
    demo_sample.make(tmp_path / "sample", stamp="one")
    (tmp_path / "sample/.git/HEAD").write_text("nonsense")
    told: list[str] = []
    demo_sample.make(tmp_path / "sample", stamp="two", warn=told.append)
    assert log(tmp_path / "sample") == ["Say hello at two Demo"]
    assert "made anew" in told[0]


def test_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git the demo says so instead of repeating itself."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match="could not be started"):
        demo_sample.make(tmp_path / "sample", stamp="one")


def test_workflow_names_the_jobs() -> None:
    """The jobs the demo waits for are those of its workflow."""
    keys = {name.split(" ")[0] for name in demo_sample.JOBS}
    assert all(f"\n  {key}:\n" in demo_sample.WORKFLOW for key in keys)
