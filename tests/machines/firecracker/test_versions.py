"""Which versions are used."""

from __future__ import annotations

import pytest

from runnerd.machines.firecracker.versions import Refused, judge


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Firecracker v1.14.4", (1, 14, 4)),
        ("1.15.1", (1, 15, 1)),
        ("v1.16.1", (1, 16, 1)),
        ("1.17.0-dev", (1, 17, 0)),
        ("Firecracker v2.0.0\n", (2, 0, 0)),
    ],
)
def test_fixed_versions_are_used(said: str, version: tuple[int, int, int]) -> None:
    """Every spelling of a version without a known escape is read."""
    assert judge(said) == version


@pytest.mark.parametrize("said", ["1.10.1", "1.13.0", "1.14.3", "1.15.0", "v0.25.0"])
def test_versions_with_an_escape_are_refused(said: str) -> None:
    """The sentence names the fault and the version to install."""
    with pytest.raises(Refused, match=r"CVE-2026-5747\); install 1\.16\.1"):
        judge(said)


@pytest.mark.parametrize("said", ["", "latest", "1.16", "1.16.1; rm -rf /", "Firecracker"])
def test_what_is_no_version_is_refused(said: str) -> None:
    """Unknown is not new enough."""
    with pytest.raises(Refused, match="is no version"):
        judge(said)


def test_features_follow_the_version() -> None:
    """A field is sent only where the version knows it."""
    assert [judge(each).serial_limit for each in ("1.14.4", "1.15.1", "1.16.1")] == [False, False, True]


def test_a_version_whose_snapshots_are_mute_is_refused() -> None:
    """What 1.16.0 loads may never answer; the sentence says so, and names no escape."""
    with pytest.raises(Refused, match=r"1\.16\.0 is not used: machines that it loads may never answer"):
        judge("1.16.0")
