"""Writes down what the driver and a real QEMU say to each other, from the first question to the last command.

    python tests/machines/qemu/record.py PROGRAM IMAGES FOLDER

takes machines of the image in IMAGES through their lives, with the QEMU of that path and the driver itself,
and makes in FOLDER/VERSION one file a scene, as `SCENES` has them: one message a line, under `to` what QEMU
was told and under `from` what it said. The long answers of the first scene are cut down to what the driver
looks at, by `trimmed`; nothing else is changed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio

from runnerd.machines.driver import Size
from runnerd.machines.qemu import abilities, vm, vmm
from runnerd.machines.qemu.driver import open_qemu_driver
from runnerd.machines.qemu.qmp import Qmp

SCENES = ("abilities", "freeze", "clone", "snapshot", "restore")
"""What is asked first; how a template is frozen, a clone started, kept while it is used, and gone back to."""

Said = list[dict[str, Any]]

_monitors: list[Said] = []
"""What was said in each machine, in the order of their starts."""


class Recorded(Qmp):
    """A monitor that writes down both sides."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.said: Said = []
        _monitors.append(self.said)

    async def _send(self, data: bytes, descriptor: int | None) -> None:
        self.said.append({"to": json.loads(data)})
        await super()._send(data, descriptor)

    def _take(self, line: bytes) -> None:
        self.said.append({"from": json.loads(line)})
        super()._take(line)


def asked(program: str) -> Said:
    """What a QEMU says of itself."""
    with subprocess.Popen([program, *abilities.WORDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        said = [{"from": json.loads(qemu.stdout.readline())}]
        for question in abilities.questions():
            qemu.stdin.write(json.dumps(question).encode() + b"\n")
            qemu.stdin.flush()
            said += [{"to": question}, {"from": json.loads(qemu.stdout.readline())}]
        qemu.kill()
    return said


def trimmed(said: Said) -> Said:
    """The same with those machines, devices, and parts of the schema that the driver asks for."""
    devices = {name for names in vmm.DEVICES.values() for name in names}

    def needed(answer: dict[str, Any]) -> Any:
        result = answer.get("return")
        match answer.get("id"):
            case "query-machines":
                return [each for each in result if {each["name"], each.get("alias")} & {*vmm.BOARDS}]
            case "qom-list-types":
                return [each for each in result if each["name"] in devices]
            case "query-qmp-schema":
                return _schema({entry["name"]: entry for entry in result})
        return result

    return [
        {"from": {**line["from"], "return": needed(line["from"])}} if "id" in line.get("from", {}) else line
        for line in said
    ]


def _schema(schema: dict[str, Any]) -> Said:
    """The commands that are used, and what the arguments of those are made of that the driver looks into."""
    commands = (*abilities.COMMANDS, *abilities.SNAPSHOT_COMMANDS)
    kept = {name: schema[name] for name in commands if name in schema}
    roots = ("migrate", "migrate-incoming", "migrate-set-capabilities")
    wanted = [schema[schema[name]["arg-type"]] for name in roots]
    while wanted:
        entry = wanted.pop()
        kept[entry["name"]] = entry
        for name in re.findall(r'"(?:type|element-type)": "([^"]+)"', json.dumps(entry)):
            if name in schema and name not in kept:
                wanted.append(schema[name])
    return list(kept.values())


async def lives(program: str, images: Path) -> None:
    """A template, a clone that is used and kept, and one that it is gone back to."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        async with open_qemu_driver(
            state=state, images=images, program=program, accelerator="tcg", ready_timeout=10.0
        ) as driver:
            template = await driver.build_template("default", Size(vcpus=1, memory=256, disk=512))
            machine = await driver.clone(template)
            await machine.thaw()
            await machine.lease()
            await machine.snapshot(state / "kept/1", key=None, limit=1 << 30)
            await machine.destroy()
            copy = await driver.restore(state / "kept/1", key=None)
            await copy.thaw()
            await copy.destroy()


def write(path: Path, lines: Said) -> None:
    """One message a line."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(path, len(lines))


def main(program: str, images: Path, folder: Path) -> None:
    """Record everything."""
    vm.Qmp = Recorded  # type: ignore[misc]
    said = asked(program)
    trio.run(lives, program, images)
    template, clone, copy = _monitors
    stop = next(number for number, line in enumerate(clone) if line.get("to", {}).get("execute") == "stop")
    scenes = (trimmed(said), template, clone[:stop], clone[stop:], copy)
    number = said[0]["from"]["QMP"]["version"]["qemu"]
    into = folder / f"{number['major']}.{number['minor']}.{number['micro']}"
    into.mkdir(parents=True, exist_ok=True)
    for name, lines in zip(SCENES, scenes, strict=True):
        write(into / f"{name}.jsonl", lines)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
