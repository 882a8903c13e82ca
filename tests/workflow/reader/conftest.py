"""Fixtures of the reader's tests: load a text, or get its problems as `(line, column, message)`."""

from __future__ import annotations

import json
import random

import pytest

from runnerd.workflow import WorkflowErrors, load


@pytest.fixture
def problems():
    """The problems of a text, empty if it is valid."""

    def find(text: str, **keys) -> list[tuple[int, int, str]]:
        try:
            load(text, path="w.yml", **keys)
        except WorkflowErrors as errors:
            return [(each.line, each.column, each.message) for each in errors.problems]
        return []

    return find


@pytest.fixture
def job_problems(problems):
    """The problems of a workflow with one job written in flow style."""

    def find(keys: str, steps: str = "[{run: x}]", **more) -> list[str]:
        text = f"on: push\njobs:\n  a: {{runs-on: x, steps: {steps}{', ' + keys if keys else ''}}}\n"
        return [message for _, _, message in problems(text, **more)]

    return find


@pytest.fixture
def job():
    """The one job of a workflow written in flow style."""

    def read(keys: str, steps: str = "[{run: x}]", **more):
        text = f"on: push\njobs:\n  a: {{runs-on: x, steps: {steps}{', ' + keys if keys else ''}}}\n"
        return load(text, path="w.yml", **more).jobs["a"]

    return read


FIXED = {
    "job-id": "job",
    "step-id": "step",
    "step-uses": "actions/checkout@v4",
    "cron-mapping": {"cron": "0 5 * * 1"},
    "schedule-string": "push",
    "runs-on-mapping": {"group": "org/g", "labels": ["a"]},
    "workflow-dispatch-input-type": "string",
    "workflow-call-input-type": "string",
    "workflow-dispatch-input-default": "x",
    "workflow-call-input-default": "x",
    "boolean": True,
    "number": 5,
    "null": None,
    "sequence": ["x"],
    "mapping": {"x": "y"},
    "any": "x",
    "string": "x",
    "non-empty-string": "a b",
}
LEFT_OUT = ("needs", "exclude")
"""Keys whose values must name what stands elsewhere in the file."""


class Generator:
    """Writes values that a definition accepts, and notes the mappings that take no other keys."""

    def __init__(self, definitions, seed):
        self.definitions, self.choose, self.count = definitions, random.Random(seed), 0
        self.closed, self.used = [], set()

    def value(self, name):
        """One value of the definition with that name."""
        self.used.add(name)
        if name in FIXED:
            return FIXED[name]
        definition = self.definitions[name]
        if "one-of" in definition:
            return self.value(self.choose.choice(definition["one-of"]))
        if "allowed-values" in definition:
            return self.choose.choice(definition["allowed-values"])
        if "sequence" in definition:
            return [self.value(definition["sequence"]["item-type"])]
        if "mapping" in definition:
            return self.mapping(name, definition["mapping"])
        contexts = [each for each in definition.get("context", ()) if "(" not in each]
        expression = (
            f"${{{{ {self.choose.choice(contexts)}.x }}}}"
            if contexts and self.choose.random() < 0.5
            else None
        )
        if "string" in definition:
            return definition["string"].get("constant") or expression or "1 == 1"
        if "null" in definition:
            return None
        return expression or (False if "boolean" in definition else 7)

    def mapping(self, name, mapping):
        """A mapping with its required keys, some others, and keys of its own where it takes any."""
        out = {}
        for key, entry in mapping.get("properties", {}).items():
            required = isinstance(entry, dict) and entry.get("required", False)
            wanted = required or (key not in LEFT_OUT and self.choose.random() < 0.6)
            opposite = key.endswith("-ignore") and key.removesuffix("-ignore") in out
            if (wanted and not opposite) or (key == "image" and "container" in name):
                out[key] = self.value(entry["type"] if isinstance(entry, dict) else entry)
        for _ in range(self.choose.randint(1, 2) if "loose-key-type" in mapping else 0):
            self.count += 1
            key = self.value(mapping["loose-key-type"]).replace(" ", "_")
            out[f"{key}{self.count}"] = self.value(mapping["loose-value-type"])
        if "loose-key-type" not in mapping and name != "workflow-dispatch-mapping":
            self.closed.append(out)
        if name == "workflow-job":
            out["uses"] = "./.github/workflows/x.yml"
        if name == "job-factory":
            out["steps"] = [{"run": "x"}, *out.get("steps", ())]
        return out


def reachable(definitions, name="workflow-root-strict", found=None):
    """Every definition that a workflow file can come to, but for what is inside a fixed value."""
    found = set() if found is None else found
    if name in definitions and name not in found:
        found.add(name)
        definition = definitions[name] if name not in FIXED else {}
        mapping = definition.get("mapping", {})
        properties = [value for key, value in mapping.get("properties", {}).items() if key not in LEFT_OUT]
        for each in (
            *definition.get("one-of", ()),
            *([definition["sequence"]["item-type"]] if "sequence" in definition else ()),
            *(entry["type"] if isinstance(entry, dict) else entry for entry in properties),
            *(mapping[key] for key in ("loose-key-type", "loose-value-type") if key in mapping),
        ):
            reachable(definitions, each, found)
    return found


@pytest.fixture(scope="session")
def generated(reference):
    """Several hundred seeded files that use the whole schema: (text, whether it is valid)."""
    definitions = reference("workflow-v1.0.json")["definitions"]
    files, used = [], set()
    for seed in range(400):
        generator = Generator(definitions, seed)
        root = generator.value("workflow-root-strict")
        if not root["on"]:
            root["on"] = "push"
        used |= generator.used
        files.append((json.dumps(root), True))
        generator.choose.choice([each for each in generator.closed if each])["qqqqq"] = "x"
        broken = json.dumps(root)
        if broken != files[-1][0]:
            files.append((broken, False))
    assert reachable(definitions) - used == set()
    return files
