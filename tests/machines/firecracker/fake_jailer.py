"""Plays jailer and Firecracker strictly: `fake_jailer.py VERSION API.json AGENT.pyz ARGUMENTS…`.

It checks every argument, every field of every body against Firecracker's own API file, every state, and every
path in the jail; what runs in its machine is a real agent. A file `fault` in the jail's base makes it do one
thing wrong. Nothing here needs KVM or another user.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

JAILER = {
    "--id", "--exec-file", "--uid", "--gid", "--chroot-base-dir", "--cgroup-version", "--parent-cgroup",
    "--cgroup", "--resource-limit",
}  # fmt: skip


class Refused(Exception):
    """Goes back as a fault message."""


def arguments(words: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word == "--":
            break
        if word == "--new-pid-ns":
            continue
        if word not in JAILER:
            sys.exit(f"jailer: unknown argument {word}")
        options[word] = next(rest)
    own = list(rest)
    if own[:1] != ["--api-sock"] or len(own) != 2:
        sys.exit(f"firecracker: unknown arguments {own}")
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", options["--id"]):
        sys.exit(f"jailer: invalid id {options['--id']}")
    options["--api-sock"] = own[1]
    return options


class Firecracker:
    """One process's states: fresh, configured, running, paused."""

    def __init__(self, root: Path, version: str, api: dict, agent: str, fault: str) -> None:
        self.root, self.version, self.agent, self.fault = root, version, agent, fault
        self.definitions, self.paths = api["definitions"], api["paths"]
        self.state = "fresh"
        self.drives: list[str] = []
        self.seen: set[str] = set()
        self.vsock = ""
        self.process: subprocess.Popen | None = None
        self.channel: socket.socket | None = None

    def ask(self, method: str, path: str, body: dict) -> dict:
        if method == "GET" and path == "/version":
            return {"firecracker_version": "1.15.0" if self.fault == "other version" else self.version}
        name = path.partition("/drives/")[2]
        known = "/drives/{drive_id}" if name else path
        if known not in self.paths or method.lower() not in self.paths[known]:
            raise Refused(f"Invalid request method and/or path: {method} {path}.")
        schema = next(
            each["schema"] for each in self.paths[known][method.lower()]["parameters"] if each["in"] == "body"
        )
        self.check(schema, body, path)
        getattr(self, "do_" + re.sub(r"\W", "_", known.strip("/")).split("__")[0])(body, name)
        return {}

    def check(self, schema: dict, value, at: str) -> None:
        """The body is of the API file's form: nothing unknown, nothing missing, nothing of another type."""
        if "$ref" in schema:
            schema = self.definitions[schema["$ref"].rpartition("/")[2]]
        kind = schema.get("type", "object")
        wanted = {"string": str, "integer": int, "boolean": bool, "object": dict, "array": list}[kind]
        if not isinstance(value, wanted) or (kind == "integer" and isinstance(value, bool)):
            raise Refused(f"invalid type in {at}: {value!r}")
        if "enum" in schema and value not in [str(each) for each in schema["enum"]]:
            raise Refused(f"unknown variant {value!r} in {at}")
        if kind == "integer" and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            raise Refused(f"out of range in {at}: {value}")
        if kind == "object":
            properties = schema.get("properties", {})
            if unknown := set(value) - set(properties):
                raise Refused(f"unknown field {sorted(unknown)} in {at}")
            if missing := set(schema.get("required", ())) - set(value):
                raise Refused(f"missing field {sorted(missing)} in {at}")
            for key, each in value.items():
                self.check(properties[key], each, f"{at}.{key}")

    def file(self, path: str, *, writable: bool = False) -> Path:
        found = self.root / path.lstrip("/")
        if not found.is_file() or (writable and not os.access(found, os.W_OK)):
            raise Refused(f"No such file or directory: {path}")
        return found

    def before_start(self, what: str) -> None:
        if self.state not in ("fresh", "configured"):
            raise Refused("The requested operation is not supported after starting the microVM.")
        if what in self.seen and not what.startswith("drive"):
            raise Refused(f"{what} was set before")
        self.seen.add(what)
        if what != "serial":
            self.state = "configured"

    def do_serial(self, body: dict, _: str) -> None:
        self.before_start("serial")
        (self.root / body["serial_out_path"].lstrip("/")).touch()

    def do_machine_config(self, body: dict, _: str) -> None:
        self.before_start("machine-config")
        if body["vcpu_count"] != 1 and body["vcpu_count"] % 2:
            raise Refused("The vCPU number is invalid!")

    def do_boot_source(self, body: dict, _: str) -> None:
        self.before_start("boot-source")
        if self.file(body["kernel_image_path"]).read_bytes()[:4] != b"\x7fELF":
            raise Refused("Cannot load kernel: invalid ELF magic")
        self.file(body["initrd_path"])

    def do_drives(self, body: dict, name: str) -> None:
        self.before_start(f"drive {name}")
        if body["drive_id"] != name:
            raise Refused("The id from the path does not match the id from the body!")
        self.file(body["path_on_host"], writable=not body["is_read_only"])
        self.drives.append(name)

    def do_vsock(self, body: dict, _: str) -> None:
        self.before_start("vsock")
        self.vsock = body["uds_path"]

    def do_entropy(self, body: dict, _: str) -> None:
        self.before_start("entropy")

    def do_actions(self, body: dict, _: str) -> None:
        if body["action_type"] != "InstanceStart" or self.state != "configured":
            raise Refused("The requested operation is not supported in this state.")
        self.run()

    def do_vm(self, body: dict, _: str) -> None:
        wanted = {"Paused": "running", "Resumed": "paused"}[body["state"]]
        if self.state != wanted:
            raise Refused(f"a microVM that is {self.state} cannot become {body['state']}")
        self.state = {"Paused": "paused", "Resumed": "running"}[body["state"]]

    def do_snapshot_create(self, body: dict, _: str) -> None:
        if self.state != "paused":
            raise Refused("save a snapshot of a running microVM")
        kept = {"version": self.version, "drives": self.drives, "vsock": self.vsock}
        (self.root / body["snapshot_path"].lstrip("/")).write_text(json.dumps(kept))
        (self.root / body["mem_file_path"].lstrip("/")).write_bytes(b"memory")

    def do_snapshot_load(self, body: dict, _: str) -> None:
        if self.state != "fresh":
            raise Refused("Loading a microVM snapshot not allowed after configuring boot-specific resources.")
        kept = json.loads(self.file(body["snapshot_path"]).read_text())
        self.file(body["mem_backend"]["backend_path"])
        if kept["version"] != self.version:
            raise Refused("the snapshot is of another version")
        for drive in kept["drives"]:
            self.file(f"/{drive}", writable=drive == "upper")
        self.drives, self.vsock = kept["drives"], kept["vsock"]
        self.run()
        self.state = "running" if body.get("resume_vm") else "paused"

    def run(self) -> None:
        """Boot: an agent starts, and somebody listens on the vsock."""
        self.state = "running"
        if self.fault == "panic":
            (self.root / "serial").write_text("[    1.0] Kernel panic - not syncing: VFS: no root\r\n")
            os._exit(0)
        self.channel, theirs = socket.socketpair()
        inside = self.root.parent / "machine"
        inside.mkdir()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                "-B",
                self.agent,
                "--fd",
                str(theirs.fileno()),
                "--root",
                str(inside),
            ],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.root / self.vsock.lstrip("/")))
        listener.listen()
        threading.Thread(target=self.serve, args=(listener,), daemon=True).start()

    def serve(self, listener: socket.socket) -> None:
        refusals = 2
        while True:
            connection, _ = listener.accept()
            line = connection.makefile("rb", buffering=0).readline()
            if self.fault == "deaf" or refusals:  # nobody in the machine listens yet
                refusals -= bool(refusals)
                connection.close()
                continue
            assert line == b"CONNECT 5005\n", line
            connection.sendall(b"OK 1073741824\n")
            for source, target in ((connection, self.channel), (self.channel, connection)):
                threading.Thread(target=pump, args=(source, target), daemon=True).start()


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass


def serve(api: Firecracker, path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            first = stream.readline().decode().split()
            if not first:
                continue
            length = 0
            while (line := stream.readline()).strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            body = stream.read(length)
            try:
                answer, status = api.ask(first[0], first[1], json.loads(body) if body else {}), 204
                if first[0] == "GET":
                    status = 200
            except Refused as refused:
                answer, status = {"fault_message": str(refused)}, 400
            data = json.dumps(answer).encode() if status != 204 else b""
            connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(data)) + data)


def main() -> None:
    version, api_file, agent, *words = sys.argv[1:]
    options = arguments(words)
    base = Path(options["--chroot-base-dir"])
    root = base / "firecracker" / options["--id"] / "root"
    fault = (base / "fault").read_text() if (base / "fault").exists() else ""
    if fault == "jailer":
        sys.exit("jailer: failed to create cgroup")
    api = json.loads(Path(api_file).read_text())
    if os.fork():
        while not (root / "firecracker.pid").exists():
            pass
        os._exit(0)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    new = root / "firecracker.pid.new"
    new.write_text(str(os.getpid()))
    new.rename(root / "firecracker.pid")
    serve(Firecracker(root, version, api, agent, fault), root / options["--api-sock"].lstrip("/"))


main()
