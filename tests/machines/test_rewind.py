"""Which steps are tried again, and what is left of those that were."""

from runnerd.machines.rewind import Rules, sweep


def test_patterns_name_file_job_and_step(tmp_path):
    """Steps that no pattern names have one try."""
    rules = Rules(folder=tmp_path, steps=("ci.yml/test/Install*",), times=3)
    assert rules.tries("ci.yml/test/Install all/of it") == 4
    assert rules.tries("ci.yml/lint/Install") == 1


def test_what_an_earlier_daemon_left_is_removed(tmp_path):
    """Also when there is nothing."""
    rules = Rules(folder=tmp_path / "kept")
    (rules.folder / "job-1").mkdir(parents=True)
    sweep(rules)
    sweep(rules)
    assert not rules.folder.exists()
