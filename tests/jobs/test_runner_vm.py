"""One workflow with every feature of a step, in a real microVM."""

from __future__ import annotations

import pytest
import trio

from runnerd.model import Outcome

pytestmark = pytest.mark.vm

WORKFLOW = r"""
on: push
env: {LEVEL: workflow}
defaults: {run: {shell: bash}}
jobs:
  one:
    runs-on: x
    outputs: {greeting: "${{ steps.made.outputs.text }}", leak: "${{ steps.made.outputs.leak }}"}
    steps:
      - id: made
        env: {LEVEL: step}
        run: |
          echo "::add-mask::sesame-open"
          echo "level $LEVEL, sesame-open"
          printf 'text<<E\nhello\nworld\nE\nleak=sesame-open\n' >> "$GITHUB_OUTPUT"
          echo "WHO=mona" >> "$GITHUB_ENV"
          mkdir -p bin src && touch src/a.c
          printf '#!/bin/sh\necho "hi $WHO"\n' > bin/greet && chmod +x bin/greet
          echo "$PWD/bin" >> "$GITHUB_PATH"
          echo "# Done by sesame-open" >> "$GITHUB_STEP_SUMMARY"
          echo '{"problemMatcher": [{"owner": "cc", "pattern": [
            {"regexp": "^(.*):(\\d+):(\\d+): (warning|error): (.*)$", // gcc
             "file": 1, "line": 2, "column": 3, "severity": 4, "message": 5}]}]}' > matcher.json
          echo "::add-matcher::matcher.json"
      - id: server
        name: Server of ${{ env.WHO }}
        background: true
        run: trap 'exit 0' INT; echo up; touch up; while sleep 0.1; do :; done
      - run: |
          greet
          until test -e up; do sleep 0.1; done
          echo "src/a.c:3:7: warning: unused"
          echo "::notice file=src/a.c,line=4,endLine=5,title=Look::here%0Athere"
          echo "[${{ steps.server.outcome }}] ${{ steps.made.outputs.text == 'hello
          world' }}"
      - cancel: server
      - parallel:
        - id: left
          run: echo side=left >> "$GITHUB_OUTPUT"; touch left; until test -e right; do sleep 0.1; done
        - id: right
          shell: sh
          run: echo side=right >> "$GITHUB_OUTPUT"; touch right; until test -e left; do sleep 0.1; done
      - id: flaky
        background: true
        continue-on-error: true
        run: exit 3
      - wait: flaky
      - id: slow
        continue-on-error: ${{ env.WHO == 'mona' }}
        timeout-minutes: 0.03
        run: sleep 60
      - run: >-
          echo "${{ steps.left.outputs.side }} ${{ steps.right.outputs.side }}
          ${{ steps.flaky.outcome }}/${{ steps.flaky.conclusion }}
          ${{ steps.slow.outcome }}/${{ steps.slow.conclusion }}
          ${{ steps.server.outcome }} ${{ job.status }}"
      - if: failure()
        run: echo never
      - run: echo now-can''cel; sleep 60
      - run: echo never
      - if: always()
        run: greet; echo "status ${{ job.status }}"
"""


async def test_each_feature_of_a_step_in_a_real_machine(bench, vm_driver, vm_template):
    """Files, masks, matchers, steps side by side, forgiveness, time, and clean-up after a cancellation."""
    bench.machine = machine = await vm_driver.clone(vm_template)
    await machine.thaw()
    await machine.lease()

    async def cancel_later() -> None:
        await bench.log.wait_for("now-cancel")
        bench.cancel.set()

    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_later)
            result = await bench.run(WORKFLOW)
    output = bench.log.output
    assert result.outcome is Outcome.CANCELLED
    assert [(step.number, str(step.outcome), str(step.conclusion)) for step in result.steps] == [
        (1, "success", "success"),
        (2, "cancelled", "cancelled"),
        (3, "success", "success"),
        (4, "success", "success"),
        (5, "success", "success"),
        (6, "success", "success"),
        (7, "success", "success"),
        (8, "failure", "success"),
        (9, "success", "success"),
        (10, "timed_out", "success"),
        (11, "success", "success"),
        (12, "skipped", "skipped"),
        (13, "cancelled", "cancelled"),
        (14, "skipped", "skipped"),
        (15, "success", "success"),
    ]
    assert output(1) == ["level step, ***"]
    assert output(2)[0] == "up"
    assert output(3)[:2] == ["hi mona", "##[warning]src/a.c:3:7: warning: unused"]
    assert output(3)[-1] == "[] true"
    assert output(11) == ["left right failure/success failure/success cancelled success"]
    assert output(15) == ["hi mona", "status cancelled"]
    assert result.outputs == {"greeting": "hello\nworld"}
    assert result.summary == "# Done by ***\n"
    assert result.steps[1].name == "Server of mona"
    notes = {note.level: note for note in result.annotations if note.step == 3}
    assert (notes["warning"].path, notes["warning"].line, notes["warning"].column) == ("src/a.c", 3, 7)
    assert (notes["notice"].title, notes["notice"].end_line) == ("Look", 5)
    assert "sesame-open" not in repr(result)
