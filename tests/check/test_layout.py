"""The shape of the tree: tests mirror sources, files stay short, and nothing names one machine's folders."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

UNMIRRORED = {
    "runnerd/store/migrations": "Alembic runs these; every test that opens a ledger migrates with them",
}
"""Folders whose files need no test file of their own, and why."""

UNSOURCED = ("tests/check", "tests/system")
"""Folders whose tests are about the whole, not about one file."""

LONGEST = 500


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))


def below(path: Path, folder: str) -> bool:
    return path.is_relative_to(folder)


def mirror_of(source: Path) -> Path:
    """Where the tests of a source file are; those of bench/ lie in tests/bench/."""
    inner = source.relative_to("runnerd") if below(source, "runnerd") else source
    return Path("tests") / inner.parent / f"test_{inner.stem.strip('_')}.py"


def is_part(path: Path, test: Path) -> bool:
    return path.parent == test.parent and path.stem.startswith(f"{test.stem}_") and (ROOT / test).exists()


def sources() -> list[Path]:
    return [path for path in python_files("runnerd") if path.name != "__init__.py"]


def test_every_source_has_its_test() -> None:
    """Each file of runnerd/ has a test file at the same place below tests/."""
    missing = [
        f"{source} wants {mirror_of(source)}"
        for source in sources()
        if not any(below(source, folder) for folder in UNMIRRORED) and not (ROOT / mirror_of(source)).exists()
    ]
    assert missing == []


def test_every_test_has_its_source() -> None:
    """Each test file belongs to one file of runnerd/ or bench/, or lies in a folder about the whole.

    The tests of one source file may be several files: test_NAME.py and test_NAME_TOPIC.py.
    """
    expected = {mirror_of(source) for source in [*sources(), *python_files("bench")]}
    stray = [
        str(path)
        for path in python_files("tests")
        if path.name.startswith("test_")
        and not any(path == of or is_part(path, of) for of in expected)
        and not any(below(path, folder) for folder in UNSOURCED)
    ]
    assert stray == []


def test_exceptions_are_needed() -> None:
    """An exception to the mirror that no longer excepts anything is taken out of the list."""
    assert [folder for folder in UNMIRRORED if not list(python_files(folder))] == []


def test_every_test_says_what_it_shows() -> None:
    """Each test function has a docstring that states the behaviour."""
    silent = [
        f"{path}:{node.lineno} {node.name}"
        for path in python_files("tests")
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and path.name.startswith("test_")
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_every_module_says_what_it_promises() -> None:
    """Each module begins with a docstring; an empty __init__ needs none."""
    silent = [
        str(path)
        for path in python_files("runnerd", "tests", "bench")
        if (text := (ROOT / path).read_text("utf-8")).strip() and not ast.get_docstring(ast.parse(text))
    ]
    assert silent == []


def test_files_are_short() -> None:
    """No Python file has more than 500 lines."""
    long = [
        f"{path}: {lines} lines"
        for path in python_files("runnerd", "tests", "bench")
        if (lines := (ROOT / path).read_text("utf-8").count("\n")) > LONGEST
    ]
    assert long == []


def test_no_machine_is_named() -> None:
    """No file of the tree names a folder that exists on one person's machine only."""
    named = re.compile(r"[/]work/(main|shared)\b|[.]library\b|[/]root/[.]|[/]Users/")
    texts = [
        path
        for pattern in ("*", "runnerd/**/*", "tests/**/*", "bench/**/*", "systemd/**/*", ".ci/*")
        for path in ROOT.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert len(texts) > 20
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts
        for number, line in enumerate(path.read_bytes().decode(errors="replace").splitlines(), start=1)
        if named.search(line)
    ]
    assert found == []


def test_readme_names_the_commands() -> None:
    """The README tells a newcomer the two commands, and each `make` target it names exists."""
    readme = (ROOT / "README.md").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b(?=`|\s*$|\s+#)", readme, re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets


def test_continuous_integration_runs_make_test() -> None:
    """CI runs exactly what the README tells a person to run."""
    script = (ROOT / ".ci/run").read_text("utf-8").splitlines()
    commands = [line for line in script if line and not line.startswith("#")]
    assert [line for line in commands if "make" in line] == ["exec make test"]
