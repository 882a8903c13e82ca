"""What a QEMU says it can do, and what is made of it: usable, or refused in a sentence that says what to do.

The answers of QEMU 7.2.22 are recorded, cut down as `record.py` says. Those of later versions are the same
with the changes that the published QMP reference lists for them, and were given by no QEMU.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from runnerd.machines.qemu import abilities
from runnerd.machines.qemu.abilities import Abilities, Unusable

CONVERSATION = Path(__file__).with_name("conversations") / "abilities-7.2.22.jsonl"


def recorded() -> dict[str, Any]:
    """What QEMU 7.2.22 answers."""
    lines = [json.loads(line) for line in CONVERSATION.read_text().splitlines()]
    return {line["from"]["id"]: line["from"]["return"] for line in lines if "from" in line}


def documented(major: int, minor: int) -> dict[str, Any]:
    """What a version from 8.2 on is documented to answer: not a recording.

    `uri` of `migrate` became optional beside a new `channels`; in a schema that is a member with a default.
    """
    answers = copy.deepcopy(recorded())
    answers["query-version"] = {"qemu": {"major": major, "minor": minor, "micro": 0}, "package": ""}
    schema = {entry["name"]: entry for entry in answers["query-qmp-schema"]}
    for command in ("migrate", "migrate-incoming"):
        members = schema[schema[command]["arg-type"]]["members"]
        members[:] = [{**each, "default": None} if each["name"] == "uri" else each for each in members]
        members.append({"name": "channels", "default": None, "type": "[MigrationChannel]"})
    return answers


def test_the_recorded_version_is_what_machines_were_made_with():
    """QEMU 7.2 has all that is needed, both boards, and no channels."""
    able = abilities.read(recorded())
    assert (able.version, able.number) == ("7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", (7, 2))
    assert able.channels is False
    assert (able.board(), able.board("q35"), able.board("microvm")) == ("microvm", "q35", "microvm")


@pytest.mark.parametrize("number", [(8, 2), (9, 1), (10, 0), (11, 0), (25, 1)])
def test_later_versions_are_taken_for_what_they_say(number):
    """No later number is refused; with channels in its schema, channels are used."""
    able = abilities.read(documented(*number))
    assert able.channels
    assert able.board() == "microvm"


def without(answers: dict[str, Any], question: str, *names: str) -> dict[str, Any]:
    """The answers without some entries of one of them."""
    return {**answers, question: [each for each in answers[question] if each["name"] not in names]}


def uncapable() -> dict[str, Any]:
    """A version that no longer has an experimental capability: 7.2 marks it as unstable."""
    answers = documented(13, 0)
    for entry in answers["query-qmp-schema"]:
        if "x-ignore-shared" in entry.get("values", []):
            entry["values"].remove("x-ignore-shared")
    return answers


@pytest.mark.parametrize(
    ("answers", "wanted", "said"),
    [
        (documented(6, 2), "auto", r"^QEMU 6\.2\.0 is too old: machines need 7\.2 or later$"),
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
            without(documented(12, 1), "query-qmp-schema", "getfd", "stop"),
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
    able = await abilities.probe("/usr/bin/qemu-system-x86_64")
    assert able.board() in ("microvm", "q35")
    assert isinstance(able, Abilities)
    monkeypatch.setattr(abilities, "_ask", None)
    assert await abilities.probe("/usr/bin/qemu-system-x86_64") is able


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
