"""Behaviour of runnerd.actors.shell: a copy is leased, used and destroyed, whoever ends the shell."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager

import msgspec
import pytest
import trio

from runnerd.actors.shell import AT_ONCE, IDLE, LIFE, PATIENCE, Shells, chosen
from runnerd.jobs.ports import PolicyUnheld
from runnerd.jobs.standing import Standing, encode
from runnerd.jobs.state import Shown
from runnerd.machines.driver import Capabilities, Exit, MachineLost, NoMachine, Size, Window
from runnerd.machines.fake import FakeMachine, open_fake_driver
from runnerd.machines.kept import Kept
from runnerd.machines.sealed import Unsealed
from runnerd.messages import PoolRestarted
from runnerd.model import Actor, Event, JobRecord, Outcome, Pause, Repository, RunRecord, StepResult
from runnerd.supervise.mailbox import Mailbox
from runnerd.web.control import Refused, Unavailable
from runnerd.web.terminal import Screen

EVENT = Event(
    delivery="d", name="push", repository=Repository(id=1, full_name="o/r"), sender=Actor(id=1, login="ann"),
    sha="b" * 40, ref="refs/heads/main",
)  # fmt: skip
RUN = RunRecord(
    id=5, delivery="d", repository="o/r", workflow_path="p", workflow_name="CI", title="t", source="s",
    event=EVENT, number=3,
)  # fmt: skip


def a_step(number, name, id=""):
    return StepResult(number=number, id=id, name=name, outcome=Outcome.SUCCESS, conclusion=Outcome.SUCCESS)


JOB = JobRecord(
    id=9, run=5, key="call.0/build", name="build (x)", labels=("ubuntu-latest",),
    steps=(a_step(1, "Build"), a_step(2, "Test", "unit"), a_step(3, "Pack")),
)  # fmt: skip


def kept(tmp_path, step, at=0.0):
    return Kept(
        folder=tmp_path / f"step-{step:02}", run=5, job=9, step=step, name=f"Step {step}", at=at, bytes=1,
        encrypted=False, standing="",
    )  # fmt: skip


class Remembered:
    """A ledger that knows one payload, and whether the pool is paused."""

    def __init__(self):
        self.paused = None

    async def pause(self):
        return self.paused

    async def job(self, job):
        return JOB if job == 9 else None

    async def payload(self, delivery):
        return {"delivery": delivery}


class Shelved:
    """Kept machines in memory; remembers which are held."""

    def __init__(self, *found):
        self.found = found
        self.bytes = encode(
            Standing(
                run=5, job=9, before=2, shells={"bash": "/usr/bin/bash", "sh": "/usr/bin/sh"},
                shown=Shown(status="failure", given={"A": "given"}, written={"B": "2"}, paths=("/tools",)),
            )
        )  # fmt: skip
        self.held_now = []

    def of(self, job):
        return self.found if job == 9 else ()

    def standing(self, kept):
        if self.bytes is None:
            raise Unsealed("it is harmed")
        return self.bytes

    @contextmanager
    def held(self, folder):
        self.held_now.append(folder)
        try:
            yield
        finally:
            self.held_now.remove(folder)


class Open:
    """A network that gives a variable, says a line, and remembers that it was left."""

    def __init__(self):
        self.error = None
        self.opened = self.left = 0

    @asynccontextmanager
    async def open(self, machine, run, say):
        if self.error:
            raise self.error
        self.opened += 1
        await say("##[warning]Network: through a proxy")
        try:
            yield {"HTTP_PROXY": "here"}
        finally:
            self.left += 1


class Someone:
    """A person who types what is put in, and remembers what they see."""

    def __init__(self, *typing, stays=False):
        self._typing = list(typing)
        self._stays = stays
        self.screen, self.notes, self.last = b"", [], None

    async def typed(self):
        await trio.lowlevel.checkpoint()
        if not self._typing and self._stays:
            await trio.sleep_forever()
        return self._typing.pop(0) if self._typing else b""

    async def show(self, data):
        self.screen += data

    async def say(self, sentence):
        self.notes.append(sentence)

    async def end(self, status):
        self.last = self.last or status

    async def fail(self, sentence):
        self.last = self.last or sentence


class Site:
    """Shells over a pool that hands out fake machines as it is told."""

    def __init__(self, driver, shelf, nursery):
        self.driver, self.shelf = driver, shelf
        self.ledger, self.network, self.pool = Remembered(), Open(), Mailbox(10)
        self.stopping = trio.Event()
        self.server_url, self.api_url = "https://forge", "https://forge/api"
        self.requests, self.answers = [], []
        self.claims = True
        self.shells = Shells(
            ledger=self.ledger, pool=self.pool, host=self, shelf=shelf, mode="off", stopping=self.stopping,
            clock=lambda: 600.0,
        )  # fmt: skip
        nursery.start_soon(self.serve)

    def image_for(self, labels):
        return "default" if self.claims and labels == ("ubuntu-latest",) else None

    async def serve(self):
        """Answer each request by the next answer: an error, "never", or by default a machine."""
        async for request in self.pool:
            self.requests.append((request, tuple(self.shelf.held_now)))
            answer = self.answers.pop(0) if self.answers else None
            if isinstance(answer, Exception):
                request.reply.refuse(answer)
            elif answer is None:
                machine = await self.driver.clone(await self.driver.build_template("default", Size()))
                await machine.thaw()
                if not request.reply.give(machine):
                    await machine.destroy()

    async def talk(self, person, at=None, gone_after=None, **screen):
        """Virtual time begins once the shell was opened, for which threads are needed."""
        talk = await self.shells.open(RUN, JOB, at, Screen(**screen))
        with trio.fail_after(2 * LIFE), trio.move_on_after(gone_after or 2 * LIFE):
            await talk(person)
        return person


@pytest.fixture
async def site(tmp_path, nursery):
    async with open_fake_driver(capabilities=Capabilities(isolated=True, snapshot=True)) as driver:
        yield Site(driver, Shelved(kept(tmp_path, 1, 0.0), kept(tmp_path, 2, 60.0)), nursery)


def shell_is(monkeypatch, does):
    monkeypatch.setattr(FakeMachine, "shell", does)


async def test_a_shell_stands_where_the_step_would_have(site, tmp_path, autojump_clock):
    """It has the environment, folder and files of then, in a copy of what was kept; then the copy goes."""
    machines = []

    async def looks(machine, command, terminal):
        machines.append((machine, command, terminal.window))
        return Exit(code=7)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeMachine, "shell", looks)
        person = await site.talk(Someone(), rows=30, columns=90, term="xterm")
    [(request, held)] = site.requests
    assert (request.image, request.job, request.kept) == ("default", 9, tmp_path / "step-02")
    assert held == (tmp_path / "step-02",)
    [(machine, command, window)] = machines
    assert (command.argv, command.cwd, command.user) == (("/usr/bin/bash",), "/home/runner/work/r/r", 1001)
    wanted = {
        "A": "given", "B": "2", "TERM": "xterm", "HTTP_PROXY": "here", "GITHUB_JOB": "build",
        "GITHUB_REPOSITORY": "o/r", "GITHUB_RUN_ID": "5", "GITHUB_SERVER_URL": "https://forge",
        "GITHUB_OUTPUT": "/home/runner/work/_temp/_runner_file_commands/set_output_2",
        "GITHUB_EVENT_PATH": "/home/runner/work/_temp/_github_workflow/event.json",
        "RUNNER_NAME": machine.id,
    }  # fmt: skip
    assert command.env.items() >= wanted.items()
    assert command.env["PATH"].startswith("/tools:")
    assert window == Window(rows=30, columns=90)
    assert person.last == 7
    assert person.notes == [
        "job 9 (build (x)) of run 5, before step 2 (Step 2): a copy of its machine as it was 9 minutes ago. "
        "The copy is thrown away when this shell ends.",
        "Network: through a proxy",
    ]
    assert machine.lost.is_set()
    assert (site.network.left, site.shelf.held_now) == (1, [])


async def test_what_may_hold_secrets_is_said(site, tmp_path):
    """Of a machine that was kept encrypted, before anything is shown."""
    site.shelf.found = (msgspec.structs.replace(kept(tmp_path, 2), encrypted=True),)
    person = await site.talk(Someone())
    assert person.notes[0].endswith(
        "thrown away when this shell ends. It may hold secrets of the job's, and nothing is masked here."
    )


async def test_what_is_typed_is_shown_and_windows_change(site, monkeypatch):
    """Keys and windows go in, the screen comes out, and the person's end hangs the shell up."""
    windows = []

    async def echoes(machine, command, terminal):
        while typed := await terminal.keys():
            if isinstance(typed, Window):
                windows.append(typed)
            else:
                await terminal.show(typed)
        return Exit(signal=1)

    shell_is(monkeypatch, echoes)
    person = await site.talk(Someone(b"ls\n", (40, 100), b"exit\n"))
    assert (person.screen, windows) == (b"ls\nexit\n", [Window(rows=40, columns=100)])
    assert person.last == 128 + 1


async def test_a_plain_shell_is_typed_to_once_it_is_ready(site, monkeypatch, autojump_clock):
    """What its terminal says before is not shown, and the end of the input stays for whoever reads next."""
    heard = []

    async def script(machine, command, terminal):
        assert command.argv[-1] == "/usr/bin/bash"
        assert len(command.argv) > 1
        await terminal.show(b"noise")
        with trio.move_on_after(60):
            heard.append(await terminal.keys())
            pytest.fail("nothing may be typed before the terminal is quiet")
        await terminal.show(b"more noise\0out")
        heard.extend([await terminal.keys() for _ in range(4)])
        return Exit(code=0)

    shell_is(monkeypatch, script)
    person = await site.talk(Someone(b"a\n"), plain=True)
    assert (person.screen, person.last) == (b"out", 0)
    assert heard == [b"a\n", b"\x04", b"\x04", b"\x04"]


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (MachineLost("machine fake-1: its kernel panicked"), "machine fake-1: its kernel panicked"),
        (OSError("no such program"), "no such program"),
        (ValueError("a NUL in the environment"), "a NUL in the environment"),
    ],
)
async def test_a_machine_that_fails_ends_the_shell(site, monkeypatch, raised, said):
    """The person is told why, and the machine is destroyed."""

    async def fails(machine, command, terminal):
        raise raised

    shell_is(monkeypatch, fails)
    assert (await site.talk(Someone())).last == said
    assert site.driver.machines == {}


async def test_a_shell_without_a_status_has_none(site, monkeypatch):
    """What was not received is not made up."""

    async def vague(machine, command, terminal):
        return Exit()

    shell_is(monkeypatch, vague)
    assert (await site.talk(Someone())).last == "the machine did not say how the shell ended"


async def test_a_policy_that_cannot_be_held_refuses(site):
    """No shell starts where the network cannot be what the job's was, and the machine goes."""
    site.network.error = PolicyUnheld("the policy cannot be held")
    assert (await site.talk(Someone())).last == "the policy cannot be held"
    assert site.driver.machines == {}


async def test_our_own_fault_leaves_and_nothing_stays(site, monkeypatch):
    """An error nobody foresaw goes to whoever serves; the machine and the place are given back."""

    async def breaks(machine, command, terminal):
        raise ZeroDivisionError

    shell_is(monkeypatch, breaks)
    for _ in range(AT_ONCE + 1):
        with pytest.raises(ZeroDivisionError):
            await site.talk(Someone())
    assert site.driver.machines == {}


async def forever(machine, command, terminal):
    await trio.sleep_forever()


async def test_a_person_who_goes_ends_it(site, monkeypatch, autojump_clock):
    """While the machine is being had, and while the shell runs: nothing is left, and the place is free."""
    shell_is(monkeypatch, forever)
    for _ in range(AT_ONCE + 1):
        await site.talk(Someone(), gone_after=10)
    site.answers = ["never"] * 2
    for _ in range(2):
        await site.talk(Someone(), gone_after=10)
    assert site.driver.machines == {}
    assert site.shelf.held_now == []
    assert site.network.opened == site.network.left == AT_ONCE + 1


async def test_a_machine_that_comes_too_late_is_destroyed(site, monkeypatch, autojump_clock):
    """Handed over in the moment in which the person goes, it serves nobody."""
    site.driver.clone_seconds = 10
    await site.talk(Someone(), gone_after=10)
    await trio.sleep(1)
    assert site.driver.made == 1
    assert site.driver.machines == {}


async def test_an_idle_shell_is_ended(site, monkeypatch, autojump_clock):
    """When nothing was typed or shown for long; what is shown or typed puts it off."""

    async def shows_twice(machine, command, terminal):
        for _ in range(2):
            await trio.sleep(IDLE * 0.9)
            await terminal.show(b"x")
        await trio.sleep_forever()

    shell_is(monkeypatch, shows_twice)
    person = await site.talk(Someone())
    assert trio.current_time() >= IDLE * 2.8
    assert (person.screen, person.last.startswith("nothing was typed or shown for 30 minutes")) == (
        b"xx",
        True,
    )
    assert site.driver.machines == {}


async def test_no_shell_lives_for_ever(site, monkeypatch, autojump_clock):
    """Not even one that always shows something."""

    async def shows(machine, command, terminal):
        while True:
            await terminal.show(b".")
            await trio.sleep(60)

    shell_is(monkeypatch, shows)
    begun = trio.current_time()
    person = await site.talk(Someone())
    assert LIFE - 60 <= trio.current_time() - begun <= LIFE + 60
    assert "open for 8 hours" in person.last
    assert site.driver.machines == {}


async def test_draining_ends_shells_and_opens_none(site, monkeypatch, autojump_clock):
    """Who has one is told, and so is who asks for one."""
    shell_is(monkeypatch, forever)
    person, talk = Someone(), await site.shells.open(RUN, JOB, None, Screen())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk, person)
        await trio.sleep(1)
        assert site.driver.machines
        site.stopping.set()
    assert person.last == "the daemon is draining: the shell was ended, and its machine is gone"
    assert site.driver.machines == {}
    with pytest.raises(Unavailable, match="draining"):
        await site.shells.open(RUN, JOB, None, Screen())


async def test_a_pool_that_is_closed_gives_none(site):
    """A drain between the question and the lease is told as one."""
    talk = await site.shells.open(RUN, JOB, None, Screen())
    site.pool.close()
    person = Someone()
    await talk(person)
    assert "draining" in person.last


async def test_no_more_than_a_few_at_once(site, monkeypatch, autojump_clock):
    """One more is refused, also when both were asked for in the same moment; then there is room again."""
    shell_is(monkeypatch, forever)
    late, talk = Someone(), await site.shells.open(RUN, JOB, None, Screen())
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(talk, Someone())
        await trio.sleep(1)
        with pytest.raises(Unavailable, match="4 shells are open"):
            await site.shells.open(RUN, JOB, None, Screen())
        await talk(late)
        assert "4 shells are open" in late.last
        nursery.cancel_scope.cancel()
    await site.shells.open(RUN, JOB, None, Screen())


async def test_no_room_is_said_in_time(site, autojump_clock):
    """A full pool is waited for, but not for ever; a pool that went down is asked again."""
    site.answers = [PoolRestarted("it stopped"), "never"]
    person = await site.talk(Someone())
    assert person.last.startswith(f"there was no room for the machine within {PATIENCE:g} s")
    assert person.notes[1:] == ["waiting for room for the machine: `runnerd pool` shows what there is"]
    assert len(site.requests) == 2
    site.answers = [NoMachine("the snapshot is harmed")]
    assert (await site.talk(Someone())).last == "the snapshot is harmed"


async def test_a_paused_pool_refuses(site):
    """At once, with what to do."""
    site.ledger.paused = Pause(reason="", since=1.0)
    with pytest.raises(Refused, match="runnerd resume"):
        await site.shells.open(RUN, JOB, None, Screen())


async def test_what_cannot_be_used_is_refused(site):
    """A standing that is harmed, or gone, and labels that nothing claims any more."""
    site.shelf.bytes = b"{}"
    with pytest.raises(Refused, match="how the job stood cannot be read"):
        await site.shells.open(RUN, JOB, None, Screen())
    site.shelf.bytes = None
    with pytest.raises(Refused, match="harmed"):
        await site.shells.open(RUN, JOB, None, Screen())
    site.claims = False
    with pytest.raises(Refused, match="no image claims"):
        await site.shells.open(RUN, JOB, None, Screen())


@pytest.mark.parametrize(
    ("at", "step"), [(None, 3), ("2", 2), ("unit", 2), ("Test", 2), ("Pack", 3), ("3", 3)]
)
def test_the_step_that_is_meant(tmp_path, at, step):
    """By number, id or name; without any it is what was kept last."""
    assert chosen(JOB, {2: kept(tmp_path, 2), 3: kept(tmp_path, 3)}, at).step == step


def test_a_step_that_has_not_ended_has_the_name_it_was_kept_by(tmp_path):
    """A job that runs, or whose step was never recorded, is looked at as well."""
    assert chosen(JOB, {4: kept(tmp_path, 4)}, "Step 4").step == 4


@pytest.mark.parametrize(
    ("at", "sentence"),
    [
        ("1", "no machine of job 9 is kept from before step 1 (Build)"),
        ("Build", "only from before 2 (Step 2)"),
        ("deploy", "'deploy' means no step of job 9: there are 1 (Build), 2 (Test), 3 (Pack)"),
    ],
)
def test_a_step_without_a_machine_is_refused(tmp_path, at, sentence):
    """The refusal names what there is."""
    with pytest.raises(LookupError) as refused:
        chosen(JOB, {2: kept(tmp_path, 2)}, at)
    assert sentence in str(refused.value)


async def test_a_job_of_which_nothing_is_kept(site):
    """The refusal says why, as far as it is known."""
    site.shelf.found = ()
    with pytest.raises(LookupError) as refused:
        await site.shells.open(RUN, JOB, None, Screen())
    assert str(refused.value) == (
        "no machine of job 9 (build (x)) is kept: [snapshots] mode is off in config.toml, which keeps none"
    )
