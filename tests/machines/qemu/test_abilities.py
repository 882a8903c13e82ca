"""What a QEMU says it can do, and what is made of it: usable, or refused in a sentence that says what to do.

The answers are recorded, cut down as `record.py` says; what is refused are such answers with a change.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from runnerd.machines import host
from runnerd.machines.qemu import abilities
from runnerd.machines.qemu.abilities import Abilities, Unusable

from . import stand_in


def recorded(version: str = "7.2.22") -> dict[str, Any]:
    """What a version answers."""
    said = [line["from"] for line in stand_in.recorded(version, "abilities") if "from" in line]
    return {answer["id"]: answer["return"] for answer in said if "id" in answer}


def numbered(major: int, minor: int) -> dict[str, Any]:
    """What a version would answer that is like the latest one that was recorded."""
    answers = copy.deepcopy(recorded("11.1.3"))
    answers["query-version"] = {"qemu": {"major": major, "minor": minor, "micro": 0}, "package": ""}
    return answers


@pytest.mark.parametrize(
    ("version", "said", "channels"),
    [
        ("7.2.22", "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", False),
        ("10.0.13", "10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", True),
        ("11.1.3", "11.1.3 (Debian 1:11.1.3+ds-1)", True),
    ],
)
def test_each_recorded_version_is_taken_for_what_it_says(version, said, channels):
    """Each has all that is needed, both boards, and snapshots; channels where they are in its schema."""
    able = abilities.read(recorded(version))
    assert (able.version, able.channels, able.snapshots) == (said, channels, True)
    assert able.number == tuple(map(int, version.split(".")[:2]))
    assert (able.board(), able.board("q35"), able.board("microvm")) == ("microvm", "q35", "microvm")


def test_no_number_is_too_late():
    """What nobody has seen yet is taken by its words."""
    able = abilities.read(numbered(25, 1))
    assert (able.board(), able.channels) == ("microvm", True)


def without(answers: dict[str, Any], question: str, *names: str) -> dict[str, Any]:
    """The answers without some entries of one of them."""
    return {**answers, question: [each for each in answers[question] if each["name"] not in names]}


def uncapable() -> dict[str, Any]:
    """A version that no longer has an experimental capability: all mark it as unstable."""
    answers = numbered(13, 0)
    for entry in answers["query-qmp-schema"]:
        if entry["meta-type"] == "enum":
            entry["members"] = [each for each in entry["members"] if each["name"] != "x-ignore-shared"]
    return answers


@pytest.mark.parametrize(
    ("answers", "wanted", "said"),
    [
        (numbered(6, 2), "auto", r"^QEMU 6\.2\.0 is too old: machines need 7\.2 or later$"),
        (without(recorded(), "query-machines", "microvm"), "microvm", r"no machine type microvm: use q35$"),
        (
            without(recorded(), "query-machines", "microvm", "pc-q35-7.2"),
            "auto",
            r"no machine type that we know: use another QEMU",
        ),
        (
            without(recorded(), "qom-list-types", "pvpanic"),
            "auto",
            "has no device pvpanic, which",
        ),
        (
            without(numbered(12, 1), "query-qmp-schema", "getfd", "stop"),
            "auto",
            r"^QEMU 12\.1\.0 has no command getfd, stop, .* that this driver does not know",
        ),
        (uncapable(), "auto", "has no migration capability x-ignore-shared"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(answers, wanted, said):
    """Too old, without a board, a device, a command or a capability: each is a sentence of its own."""
    with pytest.raises(Unusable, match=said):
        abilities.read(answers).board(wanted)


def test_a_qemu_that_keeps_no_machines_still_has_some():
    """What a snapshot alone needs is no condition for a machine."""
    able = abilities.read(without(recorded(), "query-qmp-schema", "xen-save-devices-state"))
    assert (able.board(), able.snapshots) == ("microvm", False)
    assert abilities.read(recorded()).snapshots


def test_without_microvm_the_other_board_is_taken():
    """Where a distribution left the small board out, machines are PCs, unless the operator wants it so."""
    able = abilities.read(without(recorded(), "query-machines", "microvm"))
    assert able.board() == "q35"


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {**recorded(), "query-version": {"qemu": "7.2"}},
        {**recorded(), "query-qmp-schema": [{"name": "migrate", "meta-type": "command", "arg-type": "9"}]},
        {**recorded(), "query-machines": 7},
    ],
)
def test_an_answer_that_is_none_is_refused(answers):
    """What is not as documented is no ability."""
    with pytest.raises(Unusable, match="does not describe itself"):
        abilities.read(answers)


@pytest.mark.vm
async def test_the_qemu_of_this_host_is_asked_once(vm_image, monkeypatch):
    """It answers as itself, with all that machines need; the second time nothing is started."""
    (qemu,) = host.require("qemu-system-x86_64")
    able = await abilities.probe(qemu)
    assert able.board() in ("microvm", "q35")
    assert isinstance(able, Abilities)
    monkeypatch.setattr(abilities, "_ask", None)
    assert await abilities.probe(qemu) is able


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo cannot load it >&2; exit 127",
            r"no answer to qmp_capabilities \(cannot load it\)",
        ),
        ("exit 3", r"no answer to qmp_capabilities \(status 3\)"),
        ("echo noise; echo [1]; echo '{\"return\": {}}'", "no answer to qmp_capabilities"),
        ("sleep 60", "did not say within 0.2 s"),
    ],
)
async def test_a_program_that_does_not_answer_is_refused(script, said, tmp_path, monkeypatch):
    """What it said last is told, and none is waited for without end."""
    monkeypatch.setattr(abilities, "_PATIENCE", 0.2 if "sleep" in script else 20.0)
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\ncat >/dev/null & {script}\n")
    program.chmod(0o755)
    with pytest.raises(Unusable, match=said):
        await abilities.probe(str(program))
    with pytest.raises(Unusable, match="cannot be started"):
        await abilities.probe(str(tmp_path / "none"))
