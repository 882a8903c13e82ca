"""One step at a time, with real processes."""

from __future__ import annotations

from pathlib import Path

from runnerd.jobs.spec import JobLimits
from runnerd.machines.driver import Exit
from runnerd.model import Outcome


def content(path: str) -> bytes:
    return Path(path).read_bytes()


async def one(bench, step: str, **changes):
    """Run one step; return what it printed."""
    await bench.steps(step, **changes)
    return bench.log.output(1)


async def test_env_is_layered(bench):
    """Step over job over workflow, and expressions see what is below them."""
    result = await bench.run(
        """
on: push
env: {A: workflow, B: workflow, C: workflow}
jobs:
  one:
    runs-on: x
    env: {B: job, C: job, N: 1.50, T: true}
    steps:
      - env: {C: step, D: "${{ env.B }}+"}
        run: echo "$A $B $C $D $N $T ${{ env.C }}"
"""
    )
    assert result.outcome is Outcome.SUCCESS
    assert bench.log.output(1) == ["workflow job step job+ 1.5 true step"]


async def test_a_step_sees_nothing_of_the_daemons_environment(bench, monkeypatch):
    """What the daemon was started with stays with the daemon."""
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", "hunter2")
    printed = await one(bench, "- run: env")
    assert not any("hunter2" in line for line in printed)


async def test_the_runners_variables_are_there(bench):
    """The default variables of GitHub's runner, with this run's values."""
    printed = await one(bench, "- id: me\n  run: env")
    found = dict(line.split("=", 1) for line in printed if "=" in line)
    workspace = bench.machine.paths.work + "/hello/hello"
    expected = {
        "CI": "true",
        "GITHUB_ACTION": "me",
        "GITHUB_ACTIONS": "true",
        "GITHUB_ACTOR": "mona",
        "GITHUB_ACTOR_ID": "5",
        "GITHUB_EVENT_NAME": "push",
        "GITHUB_JOB": "one",
        "GITHUB_REF": "refs/heads/main",
        "GITHUB_REF_NAME": "main",
        "GITHUB_REF_PROTECTED": "false",
        "GITHUB_REF_TYPE": "branch",
        "GITHUB_REPOSITORY": "octo/hello",
        "GITHUB_REPOSITORY_ID": "7",
        "GITHUB_REPOSITORY_OWNER": "octo",
        "GITHUB_REPOSITORY_OWNER_ID": "99",
        "GITHUB_RUN_ATTEMPT": "1",
        "GITHUB_RUN_ID": "3",
        "GITHUB_RUN_NUMBER": "4",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_SHA": "1" * 40,
        "GITHUB_WORKFLOW_REF": "octo/hello/.github/workflows/ci.yml@refs/heads/main",
        "GITHUB_WORKSPACE": workspace,
        "RUNNER_ARCH": "X64",
        "RUNNER_NAME": "machine-1",
        "RUNNER_OS": "Linux",
        "RUNNER_TEMP": bench.machine.paths.temp,
        "PWD": workspace,
    }
    assert {name: found.get(name) for name in expected} == expected
    for name in ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_STEP_SUMMARY"):
        assert content(found[name]) == b""
    assert b'"message":"hi"' in content(found["GITHUB_EVENT_PATH"])


async def test_the_runners_variables_cannot_be_replaced(bench):
    """Neither `env` nor GITHUB_ENV changes what is the runner's own; CI may be changed."""
    await bench.steps(
        """
        - run: |
            echo GITHUB_SHA=fake >> "$GITHUB_ENV"
            echo RUNNER_TEMP=/tmp >> "$GITHUB_ENV"
        - env: {GITHUB_REF: fake, CI: "no"}
          run: echo "$GITHUB_SHA $GITHUB_REF $RUNNER_TEMP $CI"
        """
    )
    assert bench.log.output(2) == [f"{'1' * 40} refs/heads/main {bench.machine.paths.temp} no"]


async def test_the_workspace_is_empty_at_first(bench):
    """Before a checkout there is a folder to work in, and nothing in it."""
    assert await one(bench, "- run: ls -A; pwd") == [bench.machine.paths.work + "/hello/hello"]


async def test_the_script_is_what_was_written_byte_for_byte(bench):
    """Quotes, tabs, non-ASCII and carriage returns reach the file as they came out of the expressions."""
    text = "echo \"ü\t'$HOME'\" # \\r"
    await bench.run(
        "on: push\njobs:\n  one:\n    runs-on: x\n    steps:\n"
        '      - shell: cat {0}\n        run: "a\\tü \'\\"\\\\ ${{ vars.X }}\\r\\nlast"\n',
        contexts={"vars": {"X": text}},
    )
    assert content(bench.machine.paths.temp + "/step_1") == f"a\tü '\"\\ {text}\r\nlast".encode()


async def test_what_an_expression_gives_is_not_evaluated_again(bench):
    """A commit message that looks like an expression stays text."""
    hostile = "${{ secrets.KEY }}"
    await bench.steps(
        '- env: {M: "${{ vars.M }}"}\n  run: printf \'%s\\n\' "$M"',
        contexts={"vars": {"M": hostile}},
        secrets={"KEY": "hunter2secret"},
    )
    assert bench.log.output(1) == [hostile]


async def test_shells(bench):
    """bash has pipefail only when it is named; sh and python run; a custom command gets the script."""
    await bench.steps(
        """
        - run: false | true; echo "${BASH_VERSION:+bash}"
        - shell: bash
          run: false | true; echo unreached
          continue-on-error: true
        - shell: sh
          run: echo "$0" | grep -c '/step_3.sh'
        - shell: python
          run: |
            import os
            print(os.path.basename(__file__))
        - shell: grep -c needle {0}
          run: needle
        """
    )
    assert bench.log.output(1) == ["bash"]
    assert "unreached" not in bench.log.output(2)
    assert bench.log.output(3) == ["1"]
    assert bench.log.output(4) == ["step_4.py"]
    assert bench.log.output(5) == ["1"]


async def test_without_bash_an_unnamed_shell_is_sh(bench):
    """An image without bash still runs steps; a step that names it fails with a sentence."""
    from runnerd.jobs import workplace

    bench.machine.calls.clear()
    original = workplace.PROBED
    workplace.PROBED = ("sh",)
    try:
        result = await bench.steps("- run: echo hi\n- shell: bash\n  run: echo no")
    finally:
        workplace.PROBED = original
    assert bench.machine.commands[0].argv[0].endswith("sh")
    assert bench.log.output(1) == ["hi"]
    assert "the shell 'bash' is not installed" in result.steps[1].reason


async def test_defaults_are_layered(bench):
    """A step's shell and folder come before the job's, and these before the workflow's."""
    await bench.run(
        """
on: push
defaults: {run: {shell: sh, working-directory: /}}
jobs:
  one:
    runs-on: x
    defaults: {run: {working-directory: "${{ vars.DIR }}"}}
    steps:
      - run: pwd
      - working-directory: sub
        run: pwd
      - working-directory: sub
        shell: bash
        run: mkdir sub; pwd
""",
        contexts={"vars": {"DIR": "/usr"}},
    )
    assert bench.log.output(1) == ["/usr"]
    assert bench.log.steps[1][2].startswith("shell: ")
    assert "sh -e {0}" in bench.log.steps[1][2]


async def test_a_folder_that_is_not_there_fails_the_step(bench):
    """The sentence names the folder."""
    result = await bench.steps("- working-directory: absent\n  run: pwd")
    assert result.outcome is Outcome.FAILURE
    assert "hello/hello/absent" in result.steps[0].reason


async def test_a_relative_folder_lies_in_the_workspace(bench):
    """`working-directory` is under GITHUB_WORKSPACE."""
    await bench.steps("- run: mkdir sub\n- working-directory: ./sub\n  run: pwd")
    assert bench.log.output(2) == [bench.machine.paths.work + "/hello/hello/sub"]


async def test_the_log_introduces_a_step_as_github_does(bench):
    """A group with the name, the script, the shell and the variables, secrets masked."""
    await bench.steps(
        "- name: Greet\n  env: {A: '1', B: '${{ secrets.KEY }}'}\n  run: |\n    echo one\n    echo two",
        secrets={"KEY": "hunter2secret"},
    )
    bash = next(line for line in bench.log.steps[1] if line.startswith("shell: "))
    assert bash.endswith("bash -e {0}")
    assert bench.log.steps[1] == [
        "##[group]Run echo one",
        "\x1b[36;1mecho one\x1b[0m",
        "\x1b[36;1mecho two\x1b[0m",
        bash,
        "env:",
        "  A: 1",
        "  B: ***",
        "##[endgroup]",
        "one",
        "two",
    ]


async def test_if_sees_env_and_steps(bench):
    """Conditions see the step's own `env`, earlier outputs, and hold or not without failing."""
    result = await bench.steps(
        """
        - id: a
          run: echo go=yes >> $GITHUB_OUTPUT
        - if: steps.a.outputs.go == 'yes' && env.X == '1'
          env: {X: 1}
          run: echo ran
        - if: ${{ steps.a.outputs.go == 'no' }}
          run: echo never
        """
    )
    assert [str(s.outcome) for s in result.steps] == ["success", "success", "skipped"]
    assert "steps.a.outputs.go == 'no'" in result.steps[2].reason


async def test_a_broken_expression_fails_its_step_and_not_the_daemon(bench):
    """An error while evaluating is a failed step with a sentence; later always() steps run."""
    result = await bench.steps(
        """
        - run: echo ${{ fromJSON('{bad') }}
        - if: always() && fromJSON(vars.NONE)
          run: echo no
        - if: always()
          timeout-minutes: ${{ 'soon' }}
          run: echo no
        - if: always()
          run: echo yes
        """
    )
    assert [str(s.outcome) for s in result.steps] == ["failure", "failure", "failure", "success"]
    assert result.steps[0].reason.startswith("`run` cannot be evaluated")
    assert result.steps[1].reason.startswith("`if` cannot be evaluated")
    assert result.steps[2].reason == "`timeout-minutes` is not a number: 'soon'"


async def test_an_environment_no_process_can_have_fails_the_step(bench):
    """Too large, or with a NUL: a sentence instead of an obscure error."""
    result = await bench.steps(
        """
        - env: {A: "${{ fromJSON(vars.NUL) }}"}
          run: echo no
        - if: always()
          env: {A: "${{ vars.BIG }}"}
          run: echo no
        """,
        contexts={"vars": {"BIG": "x" * 5000, "NUL": '"\\u0000"'}},
        limits=JobLimits(environment=5000),
    )
    assert "has a NUL" in result.steps[0].reason
    assert "at most 4 KiB" in result.steps[1].reason


async def test_hash_files_sees_what_an_earlier_step_made(bench):
    """The hash is computed in the machine, at the time of the step."""
    from runnerd.jobs import hash_files

    await bench.steps(
        """
        - run: mkdir sub; echo lock > sub/a.lock
        - run: echo "${{ hashFiles('**/*.lock', '!none') }}"
        - if: hashFiles('*.absent') == ''
          run: echo none
        """
    )
    expected = hash_files(["**/*.lock"], bench.machine.paths.work + "/hello/hello")
    assert bench.log.output(2) == [expected]
    assert len(expected) == 64
    assert bench.log.output(3) == ["none"]


async def test_hash_files_with_a_bad_pattern_fails_the_step(bench):
    """What the machine says is wrong is shown."""
    result = await bench.steps("- run: echo ${{ hashFiles('../*') }}")
    assert "must not hold '..'" in result.steps[0].reason


async def test_a_checkout_is_made_by_the_host(bench, checkout):
    """The port is asked for the event's commit; the log says what came; outputs name it."""
    bench.checkout = checkout
    result = await bench.steps(
        """
        - id: co
          uses: actions/checkout@v4
        - run: cat README; echo "${{ steps.co.outputs.commit }} ${{ steps.co.outputs.ref }}"
        """
    )
    assert result.outcome is Outcome.SUCCESS
    assert checkout.asked == [
        {
            "repository": bench.spec(
                "on: push\njobs: {a: {runs-on: x, steps: [{run: x}]}}"
            ).run.event.repository,
            "ref": "refs/heads/main",
            "sha": "1" * 40,
            "into": bench.machine.paths.work + "/hello/hello",
            "depth": 1,
            "url": "https://github.com/octo/hello",
        }
    ]
    assert bench.log.output(2) == ["hello", f"{'1' * 40} refs/heads/main"]


async def test_a_checkout_honours_ref_path_and_depth(bench, checkout):
    """Inputs may be expressions; the folder lies in the workspace."""
    bench.checkout = checkout
    await bench.steps(
        """
        - uses: Actions/Checkout@11bd71901bbe5b1630ceea73d27597364c9af683
          with: {ref: "${{ vars.R }}", path: a/b, fetch-depth: 0, token: x}
        """,
        contexts={"vars": {"R": "release"}},
    )
    (asked,) = checkout.asked
    assert (asked["ref"], asked["sha"], asked["depth"]) == ("release", "", 0)
    assert asked["into"].endswith("/hello/hello/a/b")
    assert "'token' is not needed" in bench.log.text()


async def test_a_checkout_replaces_what_was_there(bench, checkout):
    """Like the action, a clean checkout leaves nothing of before; `clean: false` does."""
    bench.checkout = checkout
    await bench.steps(
        """
        - run: mkdir d; touch old d/x .hidden
        - uses: actions/checkout@v4
        - run: ls -A; touch kept
        - uses: actions/checkout@v4
          with: {clean: false}
        - run: ls -A
        """
    )
    assert bench.log.output(3) == ["README"]
    assert bench.log.output(5) == ["README", "kept"]


async def test_a_checkout_that_cannot_be_had_fails_its_step(bench):
    """The port's sentence is the step's."""
    result = await bench.steps("- uses: actions/checkout@v4")
    assert result.steps[0].reason == "the checkout failed: there is nothing to check out here"


async def test_a_checkout_asked_for_more_than_there_is_fails(bench, checkout):
    """Submodules are not silently left out."""
    bench.checkout = checkout
    result = await bench.steps("- uses: actions/checkout@v4\n  with: {submodules: recursive}")
    assert result.outcome is Outcome.FAILURE
    assert checkout.asked == []


async def test_a_process_left_running_does_not_hold_the_next_step(bench):
    """A step's own file of before is not read again."""
    await bench.steps(
        '- id: a\n  run: echo x=1 >> $GITHUB_OUTPUT\n- id: b\n  run: echo "[${{ steps.b.outputs.x }}]"'
    )
    assert bench.log.output(2) == ["[]"]


async def test_a_full_disk_is_said_and_is_no_failure_by_itself(bench):
    """The reason of the step and of the job names the disk; a step that ended well stays a success."""
    bench.machine.ends = [Exit(code=0, disk_full=True), Exit(code=1, disk_full=True)]
    result = await bench.steps("[{run: echo hi}, {run: echo ho}]")
    assert [step.outcome for step in result.steps] == [Outcome.SUCCESS, Outcome.FAILURE]
    assert all("disk is full" in note.message for note in result.annotations[:2])
    assert "disk is full" in result.reason
    assert result.steps[1].reason.endswith("Process completed with exit code 1.")
