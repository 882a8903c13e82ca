"""How fast the workflow language is read, matched, planned and evaluated, files and plans not cached."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.results import Figures, spread
from runnerd.workflow import evaluate, expand_matrix, load, matches
from runnerd.workflow.model import Strategy

_HEAD = """name: CI
run-name: Build by ${{ github.actor }}
on:
  push:
    branches: [main, "releases/**"]
    paths-ignore: ["docs/**"]
  pull_request:
    types: [opened, synchronize]
  workflow_dispatch:
    inputs:
      level:
        type: choice
        options: [debug, info]
        default: info
env:
  LEVEL: ${{ inputs.level }}
  CI_NAME: bench
defaults:
  run:
    shell: bash
concurrency:
  group: ci-${{ github.ref }}
  cancel-in-progress: true
jobs:
"""
_JOB = """  job{n}:
    name: Job {n} on ${{{{ matrix.os }}}}
    runs-on: ${{{{ matrix.os }}}}
    timeout-minutes: 30
    strategy:
      fail-fast: false
      matrix:
        os: [ubuntu-22.04, ubuntu-24.04]
        version: ["3.11", "3.12"]
    outputs:
      result: ${{{{ steps.build.outputs.result }}}}
    steps:
      - uses: actions/checkout@v4
      - name: Build
        id: build
        if: github.event_name == 'push' && !contains(github.ref, 'skip')
        env:
          VERSION: ${{{{ matrix.version }}}}
        run: |
          make build VERSION=$VERSION
          echo "result=ok" >> "$GITHUB_OUTPUT"
      - name: Test
        run: make test
        working-directory: src
        continue-on-error: ${{{{ matrix.version == '3.12' }}}}
"""
SAMPLE = _HEAD + "".join(_JOB.format(n=n) for n in range(3))
SAMPLE += "\n".join(["#"] * (100 - SAMPLE.count("\n"))) + "\n"


def timed(work: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each of so many calls, after some that are not counted."""
    for _ in range(20):
        work()
    times = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1000)
    return times


def measure() -> Figures:
    """Times of one call each."""
    assert SAMPLE.count("\n") == 100
    workflow = load(SAMPLE, path="bench.yml")
    payload = {"ref": "refs/heads/main", "head_commit": {"message": "a commit"}, "deleted": False}
    contexts = {"github": {"event_name": "push", "ref": "refs/heads/main"}, "matrix": {"version": "3.12"}}
    expression = "github.event_name == 'push' && !contains(github.ref, 'skip')"
    legs = Strategy(matrix={"a": list(range(16)), "b": list(range(16))})
    return {
        "parse_100_lines": spread(timed(lambda: load(SAMPLE, path="bench.yml"), 500)),
        "match_triggers": spread(timed(lambda: matches("push", payload, workflow, ("a.py",)), 2000)),
        "evaluate_compiled": spread(timed(lambda: evaluate(expression, contexts), 2000)),
        "plan_256_legs": spread(timed(lambda: expand_matrix(legs, {}, job_name="job"), 100)),
    }
