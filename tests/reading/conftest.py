"""Shared by the tests of the reading room: GitHub's worked examples, where they are at hand."""

import json
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "reference"


@pytest.fixture(scope="session")
def reference():
    """Read one file of reference data by name, or skip the test where there is none."""

    def read(name):
        path = REFERENCE / name
        if not path.exists():
            pytest.skip(f"no reference data at {path}")
        return json.loads(path.read_text())

    return read
