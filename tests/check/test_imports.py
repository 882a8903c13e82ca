"""The direction of imports: which room may know which, and where each third-party library lives."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]

EVERYBODY = ("runnerd.model", "runnerd.log", "runnerd.metrics")
ROOMS = ("git", "forge", "machines", "services", "store", "llm", "insights", "web", "reading")

ALLOWED: dict[str, tuple[str, ...]] = {
    "runnerd.model": (),
    "runnerd.log": (),
    "runnerd.metrics": (),
    "runnerd.notify": (),
    "runnerd.config": EVERYBODY,
    "runnerd.messages": (
        *EVERYBODY,
        "runnerd.workflow",
        "runnerd.machines.driver",
        "runnerd.supervise.reply",
    ),
    "runnerd.workflow": ("runnerd.model",),
    **{f"runnerd.{room}": (*EVERYBODY, "runnerd.workflow") for room in ROOMS},
    "runnerd.machines.guest": (),
    "runnerd.jobs": (*EVERYBODY, "runnerd.workflow", "runnerd.machines.driver"),
    "runnerd.planning": (
        *EVERYBODY,
        "runnerd.workflow",
        "runnerd.jobs",
        "runnerd.forge",
        "runnerd.git",
        "runnerd.reading",
        "runnerd.store",
        "runnerd.trust",
    ),
    "runnerd.trust": (*EVERYBODY, "runnerd.workflow"),
    "runnerd.supervise": (*EVERYBODY, "runnerd.messages"),
    "runnerd.actors": (
        *EVERYBODY,
        "runnerd.messages",
        "runnerd.supervise",
        "runnerd.workflow",
        "runnerd.jobs",
        "runnerd.planning",
        "runnerd.trust",
        *(f"runnerd.{room}" for room in ROOMS),
    ),
    "runnerd.daemon": (
        *EVERYBODY,
        "runnerd.messages",
        "runnerd.supervise",
        "runnerd.config",
        "runnerd.notify",
        "runnerd.workflow",
        "runnerd.jobs",
        "runnerd.planning",
        "runnerd.trust",
        "runnerd.actors",
        *(f"runnerd.{room}" for room in ROOMS),
    ),
    "runnerd.cli": (
        *EVERYBODY,
        "runnerd.config",
        "runnerd.daemon",
        "runnerd.notify",
        "runnerd.workflow",
        "runnerd.jobs",
        *(f"runnerd.{room}" for room in ROOMS),
    ),
    "runnerd.__main__": ("runnerd.cli", "runnerd.daemon"),
}
"""Package or module -> what of runnerd it may import, beside itself; the most exact entry counts."""

HOMES: dict[str, tuple[str, ...]] = {
    "quart": ("runnerd.web",),
    "quart_trio": ("runnerd.web",),
    "hypercorn": ("runnerd.web",),
    "jinja2": ("runnerd.web",),
    "httpx": ("runnerd.forge", "runnerd.llm", "runnerd.machines.fcctl", "runnerd.web.client"),
    "jwt": ("runnerd.forge",),
    "cryptography": ("runnerd.forge", "runnerd.machines.sealed"),
    "ruamel": ("runnerd.workflow.yaml",),
    "_ruamel_yaml": ("runnerd.workflow.yaml",),
    "sqlalchemy": ("runnerd.store",),
    "alembic": ("runnerd.store",),
    "structlog": ("runnerd.log",),
    "prometheus_client": ("runnerd.metrics",),
    "typer": ("runnerd.cli", "runnerd.__main__"),
    "rich": ("runnerd.cli",),
    "regex": ("runnerd.jobs.matchers",),
    "backports": ("runnerd.machines.oci",),
}
"""Third-party library -> the modules that may import it."""

IMPURE = {
    "asyncio", "os", "random", "secrets", "shutil", "socket", "subprocess", "tempfile",
    "time", "trio", "urllib", "uuid",
}  # fmt: skip
"""What pure code cannot want."""


class Import(msgspec.Struct, frozen=True):
    """One imported module, and where."""

    path: Path
    line: int
    importer: str
    target: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.importer} imports {self.target}"


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def yaml_or_within(module: str, *packages: str) -> bool:
    """Like `within`; `runnerd.workflow.yaml` also stands for the files `yaml_*.py` beside it."""
    return within(module, *packages) or any(
        package == "runnerd.workflow.yaml" and module.startswith(package) for package in packages
    )


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def targets(node: ast.AST, path: Path) -> Iterator[str]:
    """Every module an import statement loads; `from package import name` names the module if it is one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = path.with_suffix("").parts[: -node.level]
            base = ".".join(parts + ((base,) if base else ()))
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield inner if base.startswith("runnerd") and is_module(inner) else base


def imports(folder: str = "runnerd") -> list[Import]:
    """All imports below a folder, lazy ones and those for type checkers too."""
    return [
        Import(path, getattr(node, "lineno", 0), module_of(path), target)
        for path in sorted(file.relative_to(ROOT) for file in (ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
        for target in targets(node, path)
    ]


def rule(module: str) -> str:
    """The most exact entry of ALLOWED for a module."""
    return max((entry for entry in ALLOWED if within(module, entry)), key=len, default="")


def test_every_module_has_a_room() -> None:
    """Each source file belongs to a room the design names."""
    homeless = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "runnerd").rglob("*.py"))
        if not rule(module_of(path.relative_to(ROOT))) and path != ROOT / "runnerd/__init__.py"
    ]
    assert homeless == []


def test_rooms_import_what_they_may() -> None:
    """A room imports the shared nouns, itself, and what the design allows it; nothing else of runnerd."""
    wrong = [
        str(found)
        for found in imports()
        if within(found.target, "runnerd")
        and found.target != "runnerd"
        and not within(found.target, rule(found.importer), *ALLOWED[rule(found.importer)])
    ]
    assert wrong == []


PARTS = {
    "runnerd.actors.attempt": "runnerd.actors.executor",
    "runnerd.actors.pool_images": "runnerd.actors.pool",
    "runnerd.actors.pool_places": "runnerd.actors.pool",
    "runnerd.actors.pool_report": "runnerd.actors.pool",
    "runnerd.actors.wayon": "runnerd.actors.attempt",
}
"""A module of the actors' room that is no actor itself, and the one that it is a part of."""


def test_no_actor_imports_another() -> None:
    """Actors know messages and rooms, never each other."""
    wrong = [
        str(found)
        for found in imports("runnerd/actors")
        if within(found.target, "runnerd.actors")
        and found.target not in ("runnerd.actors", found.importer)
        and PARTS.get(found.target) != found.importer
    ]
    assert wrong == []


def test_guest_stands_alone() -> None:
    """The guest agent imports the standard library and itself; nothing imports it."""
    guest = "runnerd.machines.guest"
    siblings = {path.stem for path in (ROOT / "runnerd/machines/guest").glob("*.py")}
    inside = [
        str(found)
        for found in imports("runnerd/machines/guest")
        if found.target.split(".")[0] not in sys.stdlib_module_names | siblings
        and not within(found.target, guest)
    ]
    outside = [
        str(found) for found in imports() if within(found.target, guest) and not within(found.importer, guest)
    ]
    assert inside == []
    assert outside == []


def test_libraries_stay_at_home() -> None:
    """Each third-party library is imported only where it has its home."""
    wrong = [
        str(found)
        for found in imports()
        if (homes := HOMES.get(found.target.split(".")[0])) and not yaml_or_within(found.importer, *homes)
    ]
    assert wrong == []


def test_workflow_is_pure() -> None:
    """The workflow language knows no clock, no randomness, no input and no output."""
    wrong = [str(found) for found in imports("runnerd/workflow") if found.target.split(".")[0] in IMPURE]
    assert wrong == []


def test_the_check_sees() -> None:
    """The checks above read every spelling of an import."""
    text = "import a.b\nfrom runnerd import log, __version__\nfrom . import x\nfrom ..model import Y\n"
    path = Path("runnerd/web/guard.py")
    found = [target for node in ast.walk(ast.parse(text)) for target in targets(node, path)]
    assert found == ["a.b", "runnerd.log", "runnerd", "runnerd.web", "runnerd.model"]
