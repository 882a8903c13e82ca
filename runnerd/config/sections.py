"""What can be configured: one frozen struct per section of config.toml, and their defaults.

The meaning of every key stands beside it in the config.toml of the distribution.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

_PART = r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,99}"
REPOSITORY = re.compile(rf"(?!\.\.?/){_PART}/(?!\.\.?$){_PART}")
"""A full name `owner/name`, safe as a folder and as a part of an address."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
"""What a secret or a variable of jobs may be called, but for GITHUB_."""

DEFAULT_LABELS = (
    "self-hosted",
    "linux",
    "x64",
    "runnerd",
    "debian-12",
    "ubuntu-latest",
    "ubuntu-26.04",
    "ubuntu-24.04",
    "ubuntu-22.04",
    "ubuntu-slim",
)

Port = Annotated[int, Meta(ge=0, le=65535, description="a port from 0 to 65535")]
Count = Annotated[int, Meta(ge=0, description="a whole number from 0")]
Positive = Annotated[int, Meta(ge=1, description="a whole number from 1")]
Seconds = Annotated[float, Meta(gt=0, le=31536000, description="a number of seconds above 0")]
Minutes = Annotated[float, Meta(gt=0, le=525600, description="a number of minutes above 0")]
_PORT = r"(6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]\d{4}|\d{1,4})"
_HOST = r"([^\s/@:\[\]?#]+|\[[0-9a-fA-F:.]+\])"
Url = Annotated[
    str,
    Meta(
        pattern=rf"^(https?://([^\s/@]+@)?{_HOST}(:{_PORT})?([/?#]\S*)?)?$",
        description="an http:// or https:// address",
    ),
]
Address = Annotated[str, Meta(pattern=rf"^({_HOST}:{_PORT})?$", description="host:port, or empty for none")]
AllowedRepository = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_.-]{1,100}/(\*|[A-Za-z0-9_.-]{1,100})$", description='"owner/name" or "owner/*"'
    ),
]
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._+-]*$", description="one word of letters, digits and ._+-")]

SizeName = Annotated[
    str,
    Meta(
        pattern=r"^([1-9]|[1-9]\d|1\d\d|2[0-4]\d|25[0-6])cpu-[1-9]\d{0,3}gb$",
        description='a size such as "4cpu-8gb", of 1 to 256 vCPUs and 1 to 9999 GiB',
    ),
]

Cidr = Annotated[
    str,
    Meta(
        pattern=r"^((25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}(/(3[0-2]|[12]?\d))?"
        r"|(?=[0-9a-fA-F:]*:[0-9a-fA-F]*:)[0-9a-fA-F:]{2,39}(/(12[0-8]|1[01]\d|\d{1,2}))?)$",
        description="an address or a range of addresses such as 10.1.0.0/16",
    ),
]
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HostPattern = Annotated[
    str,
    Meta(
        pattern=rf"^(?=.{{1,250}}$)(\*\.(?!.*\.\d+(:|$)))?{_LABEL}(\.{_LABEL})*"
        r"(:(6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]\d{4}|[1-9]\d{0,3}))?$",
        description="host, *.host or either with :port",
    ),
]
AbsolutePath = Annotated[str, Meta(pattern=r"^(/[^\x00]*)?$", description="an absolute path, or empty")]
NetworkPolicy = Literal["none", "guarded", "allowlist"]


class Secret:
    """A value that never shows itself: text, repr and errors say `***`; only `reveal` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return "***"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """`[server]`: where we listen and how much one client may take."""

    host: str = "127.0.0.1"
    port: Port = 3000
    metrics: Address = "127.0.0.1:9320"
    max_connections: Positive = 256
    body_limit: Positive = 26_214_400
    body_timeout: Seconds = 8.0
    public_url: Url = ""

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port of /livez, /readyz and /metrics; None when they are not served."""
        if not self.metrics:
            return None
        host, _, port = self.metrics.rpartition(":")
        return host.strip("[]"), int(port)


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """`[webhook]`: what signs a delivery; two secrets are accepted while one replaces the other."""

    secret: Secret | None = None
    previous_secret: Secret | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every accepted secret, the current one first."""
        return tuple(secret.reveal() for secret in (self.secret, self.previous_secret) if secret)


class Forge(msgspec.Struct, frozen=True, kw_only=True):
    """`[forge]`: whom we report to and where repositories are cloned from."""

    kind: Literal["github", "gitea"] = "github"
    server: Url = "https://github.com"
    api: Url = "https://api.github.com"
    token: Secret | None = None
    app_id: Word = ""
    app_private_key: Secret | None = None

    @property
    def named(self) -> bool:
        """Whether we may speak to the forge in anybody's name."""
        return self.token is not None or self.as_app

    @property
    def as_app(self) -> bool:
        """Whether we speak as a GitHub App; a token beside it is not used then."""
        return self.kind == "github" and bool(self.app_id) and self.app_private_key is not None


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """`[repositories."owner/name"]`: what differs for one repository."""

    remote: str = ""
    id: Count = 0
    pull_request_target: bool = False
    network: Literal["", "none", "guarded", "allowlist"] = ""
    network_allow: tuple[HostPattern, ...] = ()


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """`[trust]`: whose events may start anything."""

    repositories: tuple[AllowedRepository, ...] = ()


class SecretRule(msgspec.Struct, frozen=True, kw_only=True):
    """`[secrets.NAME]`: which jobs may have a secret; each list that is not empty has to match."""

    repositories: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """`[match]`: which jobs are ours."""

    mode: Literal["labels", "all", "directory"] = "labels"
    directory: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9._-]{1,100}(/[A-Za-z0-9._-]{1,100}){0,5}$",
            description="a folder of the repository, such as .runnerd/workflows",
        ),
    ] = ".runnerd/workflows"


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """`[pool]`: how many machines are kept warm and how many there may be."""

    min_idle: Count = 1
    max_idle: Annotated[int, Meta(ge=-1, le=1000, description="a whole number from 0 to 1000, or -1")] = -1
    max_total: Count = 0
    memory_reserve: Count = 1024
    cpu_ratio: Annotated[float, Meta(gt=0, le=1000, description="a number above 0, up to 1000")] = 4.0
    max_idle_age: Seconds = 1200.0
    canary_leases: Annotated[int, Meta(ge=0, le=1000, description="a whole number from 0 to 1000")] = 3
    ready_timeout: Seconds = 2.0
    build_timeout: Seconds = 60.0


class Machines(msgspec.Struct, frozen=True, kw_only=True):
    """`[machines]`: how machines are made and how large they are."""

    driver: Literal["", "qemu", "firecracker", "fcctl", "process"] = ""
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    board: Literal["auto", "microvm", "q35"] = "auto"
    launcher: str = "auto"
    cgroup: str = "auto"
    vcpus: Annotated[int, Meta(ge=1, le=256, description="a whole number from 1 to 256")] = 2
    memory: Annotated[int, Meta(ge=128, description="at least 128 MiB")] = 4096
    disk: Annotated[int, Meta(ge=64, description="at least 64 MiB")] = 10240
    allow_unisolated: bool = False
    allow_emulated_forks: bool = False
    firecracker_folder: str = ""
    firecracker_api_url: Url = ""
    firecracker_auth_token: Secret | None = None
    firecracker_vm_type: Word = "bionic-test"

    @property
    def driver_name(self) -> str:
        """The driver in use: as written, else `fcctl` when its address is known, else `qemu`."""
        return self.driver or ("fcctl" if self.firecracker_api_url else "qemu")


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """`[network]`: what jobs reach beside this host's own services."""

    policy: NetworkPolicy = "guarded"
    forks: NetworkPolicy = "none"
    allow: tuple[HostPattern, ...] = ()
    ports: tuple[Annotated[int, Meta(ge=1, le=65535, description="a port from 1 to 65535")], ...] = ()
    open: tuple[Cidr, ...] = ()
    closed: tuple[Cidr, ...] = ()
    connections: Annotated[int, Meta(ge=1, le=60, description="a whole number from 1 to 60")] = 48
    connect_timeout: Seconds = 10.0
    idle_timeout: Seconds = 900.0

    def __post_init__(self) -> None:
        for block in (*self.open, *self.closed):
            ip_network(block, strict=False)  # its ValueError names it


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """`[images.NAME]`: one kind of machine, and the `runs-on` labels it claims.

    `uses` names the table whose built image it boots from, where that is not its own; for `sizes` see
    `config.sizes`. `oci` and
    `provision` are files of this host, read when the image is built.
    """

    labels: tuple[str, ...] = ()
    sizes: tuple[SizeName, ...] = ()
    uses: Word = ""
    preset: Literal["minimal", "default"] = "default"
    oci: AbsolutePath = ""
    provision: AbsolutePath = ""
    vcpus: Annotated[int, Meta(ge=0, le=256, description="a whole number from 0 to 256")] = 0
    memory: Annotated[int, Meta(ge=0, description="a number of MiB, 0 for that of [machines]")] = 0
    disk: Annotated[int, Meta(ge=0, description="a number of MiB, 0 for that of [machines]")] = 0
    min_idle: Annotated[int, Meta(ge=-1, description="a whole number from 0, or -1")] = -1
    max_total: Count = 0
    max_idle_age: Annotated[float, Meta(ge=0, le=31536000, description="a number of seconds from 0")] = 0.0
    packages: tuple[Word, ...] = ()
    suite: Word = "bookworm"
    mirror: Url = ""


class Parser(msgspec.Struct, frozen=True, kw_only=True):
    """`[parser]`: how deliveries are planned."""

    workers: Annotated[int, Meta(ge=1, le=64, description="a whole number from 1 to 64")] = 2
    shared_workflows: tuple[AllowedRepository, ...] = ()


class Executor(msgspec.Struct, frozen=True, kw_only=True):
    """`[executor]`: how long a job may run."""

    default_timeout_minutes: Minutes = 360
    cancel_minutes: Minutes = 5


class Snapshots(msgspec.Struct, frozen=True, kw_only=True):
    """`[snapshots]`: before which steps a job's machine is kept, and how much of it; `disk` in MiB."""

    mode: Literal["off", "on-failure", "each-step"] = "on-failure"
    count: Count = 20
    age: Seconds = 604800.0
    disk: Positive = 10240
    limit: Positive = 8_589_934_592
    secrets: bool = False
    key: AbsolutePath = ""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """`[retry]`: steps that go back to before themselves when they fail, and are tried again."""

    steps: tuple[str, ...] = ()
    times: Annotated[int, Meta(ge=1, le=10, description="a whole number from 1 to 10")] = 1


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """`[logs]`: how many bytes of output are kept."""

    job_limit: Positive = 67_108_864
    step_limit: Positive = 16_777_216


class Reports(msgspec.Struct, frozen=True, kw_only=True):
    """`[reports]`: what is said at the forge beside statuses."""

    comment: Literal["auto", "on", "off"] = "auto"


class Llm(msgspec.Struct, frozen=True, kw_only=True):
    """`[llm]`: the original server's settings; read and checked, not acted on yet."""

    use: bool = False
    ollama_base_url: Url = "http://127.0.0.1:11434"
    ollama_model: str = ""
    openrouter_model: str = ""
    openrouter_api_key: Secret | None = None


def _loopback(host: str | None) -> bool:
    return host is not None and (host in ("localhost", "::1") or host.startswith("127."))


def _default_images() -> dict[str, Image]:
    return {"default": Image(labels=DEFAULT_LABELS)}


class Setting(msgspec.Struct, frozen=True):
    """One effective value for people: its dotted key, its text (secrets as `***`) and its origin."""

    key: str
    value: str
    origin: str


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything configured, checked, with defaults filled in."""

    server: Server = Server()
    webhook: Webhook = Webhook()
    forge: Forge = Forge()
    repositories: Mapping[str, Repository] = msgspec.field(default_factory=dict)
    trust: Trust = Trust()
    secret_rules: Mapping[str, SecretRule] = msgspec.field(default_factory=dict, name="secrets")
    """`[secrets]`"""
    variables: Mapping[str, str] = msgspec.field(default_factory=dict)
    match: Match = Match()
    pool: Pool = Pool()
    machines: Machines = Machines()
    network: Network = Network()
    images: Mapping[str, Image] = msgspec.field(default_factory=_default_images)
    parser: Parser = Parser()
    executor: Executor = Executor()
    snapshots: Snapshots = Snapshots()
    retry: Retry = Retry()
    logs: Logs = Logs()
    reports: Reports = Reports()
    llm: Llm = Llm()
    log_level: str = "info"
    state_directory: Path
    runtime_directory: Path
    control_socket: Path
    settings: tuple[Setting, ...] = ()

    def origins(self) -> tuple[Setting, ...]:
        """Return every setting with where its value came from, in the order of config.toml."""
        return self.settings

    @property
    def workflow_folders(self) -> tuple[str, ...]:
        """The folders of a repository that may hold its workflows; the first that has any counts."""
        if self.match.mode == "directory":
            return (self.match.directory,)
        if self.forge.kind == "gitea":
            return (".forgejo/workflows", ".gitea/workflows", ".github/workflows")
        return (".github/workflows",)

    def merges(self, full_name: str) -> bool:
        """Whether a repository's remote is a GitHub, which makes merge commits of its pull requests."""
        server = self.forge.server.rstrip("/")
        return self.forge.kind == "github" and self.remote_of(full_name).startswith(f"{server}/")

    def refuses(self, full_name: str, id: int) -> str | None:
        """Why nothing of a repository runs here: it is not allowed, or not the one of that name; or None."""
        name = full_name.casefold()
        allowed = {each.casefold() for each in self.trust.repositories}
        if allowed and not allowed & {name, f"{name.partition('/')[0]}/*"}:
            return f"{full_name} is not among the repositories in [trust]: nothing of it runs here"
        for known, repository in self.repositories.items():
            if known.casefold() == name and repository.id not in (0, id):
                return f"{full_name} has the number {id}, and [repositories] expects {repository.id}"
        return None

    def targets(self, full_name: str) -> bool:
        """Whether a repository's pull requests may start `pull_request_target` workflows."""
        return any(
            repository.pull_request_target
            for name, repository in self.repositories.items()
            if name.casefold() == full_name.casefold()
        )

    def remote_of(self, full_name: str) -> str:
        """Return where a repository is cloned from: its own `remote`, else the forge's server.

        Raises ValueError for what is no full name, so that a payload cannot steer the address.
        """
        if not REPOSITORY.fullmatch(full_name):
            raise ValueError(f"not a repository's full name: {full_name[:200]!r}")
        for name, repository in self.repositories.items():
            if name.casefold() == full_name.casefold() and repository.remote:
                return repository.remote
        return f"{self.forge.server.rstrip('/')}/{full_name}.git"

    def secrets(self) -> tuple[str, ...]:
        """Return every configured secret, for redaction."""
        found = (
            self.forge.token,
            self.forge.app_private_key,
            self.machines.firecracker_auth_token,
            self.llm.openrouter_api_key,
        )
        return self.webhook.secrets + tuple(secret.reveal() for secret in found if secret)

    def why_not_serve(self) -> str | None:
        """Return the sentence that says why no daemon may start with this, or None."""
        if self.webhook.secret is None:
            return (
                "no webhook secret: set GITHUB_WEBHOOK_SECRET, GITHUB_WEBHOOK_SECRET_FILE, the systemd "
                "credential github_webhook_secret or [webhook] secret to the value entered at the forge"
            )
        if bool(self.forge.app_id) != (self.forge.app_private_key is not None):
            return "a GitHub App needs its id and its key: set [forge] app_id and app_private_key, or neither"
        if self.forge.kind == "gitea" and "github.com" in (self.forge.api + self.forge.server):
            return (
                "[forge] kind is gitea, but server or api is GitHub's: set server to https://HOST and api "
                "to https://HOST/api/v1"
            )
        if self.snapshots.secrets and not self.snapshots.key:
            return (
                "[snapshots] secrets is on, which takes a key: set [snapshots] key to a file outside the "
                "state directory, such as /etc/runnerd/snapshots.key; it is made where there is none"
            )
        if self.snapshots.key and Path(self.snapshots.key).resolve().is_relative_to(
            self.state_directory.resolve()
        ):
            return (
                f"[snapshots] key is {self.snapshots.key}, in the state directory, where it is found beside "
                "what it encrypts: set it to a file elsewhere, such as /etc/runnerd/snapshots.key"
            )
        api = urlsplit(self.forge.api)
        server = urlsplit(self.forge.server)
        if self.forge.named and api.hostname == "api.github.com" and server.hostname != "github.com":
            return (
                f"[forge] server is {self.forge.server}, but api is GitHub's own, which would get the token: "
                "set api to https://HOST/api/v3 (GitHub Enterprise Server) or https://HOST/api/v1 (Gitea)"
            )
        if self.forge.named and api.scheme != "https" and not _loopback(api.hostname):
            return (
                f"the token would travel in plain text to {self.forge.api}: give [forge] api an https:// "
                "address, or take the token away"
            )
        return None
