"""Plays jailer and Firecracker strictly: `fake_jailer.py VERSION API.json AGENT.pyz ARGUMENTS…`.

It checks every argument, every field of every body against Firecracker's own API file, every state, and
every path in the jail; what runs in its machine is a real agent that listens. As a real one it names its
jails after the program, links followed, keeps its output open and writes to it. The memory of its machine is
what that agent has in /home. A snapshot resets the vsock: when the machine goes on, the guest's
connections end, before 1.16 not at once, and the host's when it speaks. Without one, 1.16.0 and 1.16.1 let
nobody connect after a pause (#6100). A file `fault` in the jail's base makes it do one thing wrong. Nothing
here needs KVM; namespaces want root.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

JAILER = {
    "--id", "--exec-file", "--uid", "--gid", "--chroot-base-dir", "--cgroup-version", "--parent-cgroup",
    "--cgroup", "--resource-limit",
}  # fmt: skip


AGENT = """
import ctypes, fcntl, os, signal, socket, struct, sys, types
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(1, signal.SIGKILL)  # also while it stands still, where nothing else reaches it
def do(done):
    if done:
        sys.exit("a machine cannot be played here: " + os.strerror(ctypes.get_errno()))
def bind(source, target):
    do(libc.mount(source.encode(), target.encode(), None, 0x5000, None))
# What a machine has of its own: /home, a network of a loopback alone, and devices, the job's disk too.
inside, dev = sys.argv[3], sys.argv[4]
do(libc.unshare(0x20000 | 0x40000000))
do(libc.mount(None, b"/", None, 0x44000, None))
do(libc.mount(b"dev", dev.encode(), b"tmpfs", 0, None))
os.chmod(dev, 0o755)
for name in ("null", "zero", "full", "random", "urandom", "tty", "vdd"):
    open(dev + "/" + name, "w").close()
    bind(sys.argv[5] if name == "vdd" else "/dev/" + name, dev + "/" + name)
os.mkdir(dev + "/pts")
bind("/dev/pts", dev + "/pts")
os.symlink("pts/ptmx", dev + "/ptmx")
os.symlink("/proc/self/fd", dev + "/fd")
bind(dev, "/dev")
bind(inside, "/home")
with socket.socket() as card:
    fcntl.ioctl(card, 0x8914, struct.pack("16sh", b"lo", 1))
sys.path.insert(0, sys.argv[1])
from runnerd_agent import __main__ as agent, archive, system
archive.fcntl = types.SimpleNamespace(ioctl=lambda *_: None)  # a file has no cache beside the page cache
def listener(port):
    assert port == 5005
    taken = socket.socket(fileno=int(sys.argv[2]))
    taken.setblocking(False)
    return taken
system.vsock_listener = listener
sys.exit(agent.main(["--vsock", "5005", "--root", "/home"]))
"""


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

    def __init__(self, root: Path, base: Path, version: str, api: dict, agent: str) -> None:
        self.root, self.base, self.version, self.agent = root, base, version, agent
        self.number = tuple(map(int, version.partition("-")[0].split(".")))
        self.definitions, self.paths = api["definitions"], api["paths"]
        self.state = "fresh"
        self.drives: list[str] = []
        self.seen: set[str] = set()
        self.vsock = ""
        self.memory = 0
        self.process: subprocess.Popen | None = None
        self.connections: list[Connection] = []
        self.reset = False
        self.silent = False
        self.cut_next = False
        self.runs = threading.Event()

    @property
    def fault(self) -> str:
        path = self.base / "fault"
        return path.read_text() if path.exists() else ""

    def ask(self, method: str, path: str, body: dict) -> dict:
        if method == "GET" and path == "/":
            state = {"running": "Running", "paused": "Paused"}.get(self.state, "Not started")
            return {
                "app_name": "Firecracker",
                "id": self.base.name,
                "state": state,
                "vmm_version": self.version,
            }
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
        self.memory = body["mem_size_mib"] << 20

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
        if self.state == "paused":
            self.runs.clear()
            self.process.send_signal(signal.SIGSTOP)
        else:
            self.resume()

    def resume(self) -> None:
        """The vCPUs run: the guest handles the reset of its vsock, if there was one."""
        if self.reset and self.number >= (1, 16):  # connections are held back until the guest has
            self.reset_all()
        elif self.reset and self.connections:
            threading.Timer(0.03, self.reset_all).start()
        elif self.reset:
            self.cut_next = True
        elif (1, 16, 0) <= self.number <= (1, 16, 1):
            self.silent = True
        self.reset = False
        self.process.send_signal(signal.SIGCONT)
        self.runs.set()

    def reset_all(self) -> None:
        for each in self.connections:
            each.reset_guest()

    def do_snapshot_create(self, body: dict, _: str) -> None:
        if self.state != "paused":
            raise Refused("save a snapshot of a running microVM")
        if self.fault == "create":
            raise Refused("Cannot create snapshot: No space left on device")
        if self.fault == "die":
            os._exit(149)
        if self.fault == "slow":
            (self.base / "creating").touch()
            while self.fault == "slow":
                time.sleep(0.01)
        self.reset = True
        mark = secrets.token_hex(16)
        tree = io.BytesIO()
        with tarfile.open(fileobj=tree, mode="w") as archive:
            archive.add(self.root.parent / "machine", ".")
        kept = {
            "version": self.version, "drives": self.drives, "vsock": self.vsock, "mark": mark,
            "memory": self.memory, "tree": len(tree.getvalue()),
        }  # fmt: skip
        (self.root / body["snapshot_path"].lstrip("/")).write_text(json.dumps(kept))
        with (self.root / body["mem_file_path"].lstrip("/")).open("xb") as file:
            file.truncate(self.memory)
            file.write(mark.encode())
            file.seek(-len(tree.getvalue()), os.SEEK_END)
            file.write(tree.getvalue())

    def do_snapshot_load(self, body: dict, _: str) -> None:
        if self.state != "fresh":
            raise Refused("Loading a microVM snapshot not allowed after configuring boot-specific resources.")
        kept = json.loads(self.file(body["snapshot_path"]).read_text())
        if kept["version"] != self.version:
            raise Refused("the snapshot is of another version")
        with self.file(body["mem_backend"]["backend_path"]).open("rb") as file:
            if file.read(32).decode() != kept["mark"] or file.seek(0, os.SEEK_END) != kept["memory"]:
                raise Refused("the memory is not that of the state")
            file.seek(-kept["tree"], os.SEEK_END)
            with tarfile.open(fileobj=io.BytesIO(file.read())) as archive:
                archive.extractall(self.root.parent / "machine", filter="tar")
        for drive in kept["drives"]:
            self.file(f"/{drive}", writable=drive == "upper")
        self.drives, self.vsock, self.memory = kept["drives"], kept["vsock"], kept["memory"]
        self.vsock = body.get("vsock_override", {}).get("uds_path", self.vsock)
        self.run()
        self.state = "paused"
        self.process.send_signal(signal.SIGSTOP)
        if body.get("resume_vm"):
            self.state = "running"
            self.resume()
        self.reset = True  # it was published before the state was saved

    def run(self) -> None:
        """Boot: an agent starts, and somebody listens on the vsock."""
        self.state = "running"
        if self.fault == "panic":
            (self.root / "serial").write_text("[    1.0] Kernel panic - not syncing: VFS: no root\r\n")
            os._exit(0)
        inside, devices = self.root.parent / "machine", self.root.parent / "dev"
        inside.mkdir(exist_ok=True)
        devices.mkdir()
        guest = socket.socket(socket.AF_UNIX)
        guest.bind(str(self.root / "run/guest"))
        guest.listen()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-B", "-c", AGENT, self.agent, str(guest.fileno())),
                *(str(inside), str(devices), str(self.root / "job")),
            ],
            pass_fds=[guest.fileno()],
        )
        guest.close()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.root / self.vsock.lstrip("/")))
        listener.listen()
        self.runs.set()
        threading.Thread(target=self.listen, args=(listener,), daemon=True).start()

    def listen(self, listener: socket.socket) -> None:
        refusals = 2
        while True:
            host, _ = listener.accept()
            refused = self.fault == "deaf" or refusals > 0  # nobody in the machine listens yet
            refusals -= refusals > 0
            threading.Thread(target=self.connect, args=(host, refused), daemon=True).start()

    def connect(self, host: socket.socket, refused: bool) -> None:
        line = host.makefile("rb", buffering=0).readline()
        if refused or not line:
            host.close()
            return
        assert line == b"CONNECT 5005\n", line
        self.runs.wait()
        if self.silent or self.fault == "dumb":
            return
        guest = socket.socket(socket.AF_UNIX)
        guest.connect(str(self.root / "run/guest"))
        connection = Connection(host, guest)
        host.sendall(b"OK 1073741824\n")
        if self.cut_next:
            self.cut_next = False
            connection.close(guest)
            connection.close(host)
            return
        self.connections.append(connection)
        threading.Thread(target=connection.to_guest, daemon=True).start()
        threading.Thread(target=connection.to_host, daemon=True).start()


class Connection:
    """One vsock connection between a host's socket and a guest's."""

    def __init__(self, host: socket.socket, guest: socket.socket) -> None:
        self.host, self.guest, self.was_reset = host, guest, False

    def reset_guest(self) -> None:
        """The guest's end is gone, and the host is not told."""
        self.was_reset = True
        self.close(self.guest)

    def to_guest(self) -> None:
        try:
            while data := self.host.recv(65536):
                if self.was_reset:
                    break
                self.guest.sendall(data)
        except OSError:
            pass
        self.close(self.host)
        self.close(self.guest)

    def to_host(self) -> None:
        try:
            while data := self.guest.recv(65536):
                self.host.sendall(data)
        except OSError:
            pass
        if not self.was_reset:
            self.close(self.host)

    @staticmethod
    def close(end: socket.socket) -> None:
        try:
            end.shutdown(socket.SHUT_RDWR)
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
            try:
                connection.sendall(
                    b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(data)) + data
                )
            except OSError:  # whoever asked has gone
                pass


def main() -> None:
    version, api_file, agent, *words = sys.argv[1:]
    options = arguments(words)
    base = Path(options["--chroot-base-dir"])
    program = Path(options["--exec-file"]).resolve().name
    if "firecracker" not in program:
        sys.exit("jailer: the exec file's name must contain firecracker")
    root = base / program / options["--id"] / "root"
    pid_file = root / f"{program}.pid"
    if (base / "fault").exists() and (base / "fault").read_text() == "jailer":
        sys.exit("jailer: failed to create cgroup")
    api = json.loads(Path(api_file).read_text())
    if pid := os.fork():
        pid_file.write_text(str(pid))
        if (base / "fault").exists() and (base / "fault").read_text() == "late":
            sys.exit("jailer: out of luck")
        os._exit(0)
    if (base / "fault").exists() and (base / "fault").read_text() == "exec":  # the jailer has ended well
        sys.exit("Jailer error: Failed to exec into Firecracker: Permission denied (os error 13)")
    print(f"Running Firecracker v{version}", file=sys.stderr, flush=True)
    serve(Firecracker(root, base, version, api, agent), root / options["--api-sock"].lstrip("/"))


main()
