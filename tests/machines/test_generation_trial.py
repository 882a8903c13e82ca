"""The trial of a new generation: who serves meanwhile, what counts, and that it ends once."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runnerd.machines.generation_trial import (
    RETRY,
    TOO_MANY,
    Standing,
    Succession,
    Trial,
    Verdict,
    came_up,
    ended_well,
    failed,
    lost,
    outdated,
    owed,
    read,
    record,
    seen,
    wants_canary,
)

OPEN = Trial(digest="new", before="old")
ON_TRIAL = Standing(current="new", trial=OPEN)


def begun() -> Succession:
    """What a pool that serves `old` makes of `new` on trial."""
    return seen(Succession(serving="old"), ON_TRIAL)


def test_what_is_current_serves_when_nothing_is_on_trial():
    """So it is at the first start, and after one that passed."""
    assert seen(Succession(), Standing(current="old")) == Succession(serving="old")


def test_a_start_in_the_middle_goes_on_with_the_trial():
    """The generation before serves, and what counted before the restart still counts."""
    so_far = msgspec.structs.replace(OPEN, good=2, bad=1, reason="it panicked")
    now = seen(Succession(), Standing(current="new", trial=so_far))
    assert (now.serving, now.coming, now.reason) == ("old", "new", "it panicked")
    now, verdict = ended_well(now, "new", needed=3)
    assert (verdict, now) == (Verdict.TAKEN_OVER, Succession(serving="new"))


def test_canaries_come_one_at_a_time_and_later_after_one_failed():
    """While one is alive, or one just failed, machines are of the generation that serves."""
    now = begun()
    assert wants_canary(now, {"old"}, 0.0)
    assert not wants_canary(now, {"old", "new"}, 0.0)
    now, _ = failed(now, "new", "it panicked", 5.0, excused=False)
    assert not wants_canary(now, {"old"}, 5.0 + RETRY - 1)
    assert wants_canary(now, {"old"}, 5.0 + RETRY)
    assert not wants_canary(Succession(serving="old"), {"old"}, 0.0)


def test_after_so_many_good_leases_it_takes_over_and_the_disk_is_told():
    """Machines of the one before are outdated from then on."""
    now = begun()
    for number in range(3):
        assert not outdated(now, "old")
        assert not outdated(now, "new")
        now, verdict = ended_well(now, "new", needed=3)
        assert verdict is (Verdict.TAKEN_OVER if number == 2 else Verdict.OPEN)
    assert outdated(now, "old")
    assert owed(now, ON_TRIAL) == msgspec.structs.replace(OPEN, ended="passed")
    assert owed(now, Standing(current="new")) is None


def test_too_many_that_fail_go_back_and_the_disk_is_told():
    """The reason is on record, and what failed is not taken up again before the disk has followed."""
    now = begun()
    for number in range(TOO_MANY):
        now, verdict = failed(now, "new", f"reason {number}", 0.0, excused=False)
    assert verdict is Verdict.WENT_BACK
    assert (now.serving, now.coming) == ("old", "")
    assert outdated(now, "new")
    written = owed(now, ON_TRIAL)
    assert written is not None
    assert (written.ended, written.reason, written.bad) == ("failed", "reason 1", TOO_MANY)
    assert seen(now, ON_TRIAL) == now
    assert seen(now, Standing(current="old", failed=written)) == Succession(serving="old")


def test_a_repository_loses_canaries_for_itself_alone():
    """A job may end its machine on purpose: one repository's losses go back only what nobody else uses."""
    now = begun()
    for by in ("acme/app", "acme/app", ""):
        now, verdict = lost(now, "new", "it panicked", 0.0, by=by, alone=False)
        assert verdict is Verdict.OPEN
        assert not wants_canary(now, {"old"}, RETRY - 1)
    assert now.trial is not None
    assert (now.trial.bad, now.trial.lost_by) == (1, ("acme/app",))
    assert lost(now, "new", "it panicked", 0.0, by="acme/web", alone=False)[1] is Verdict.WENT_BACK
    assert lost(now, "new", "it panicked", 0.0, by="acme/app", alone=True)[1] is Verdict.WENT_BACK
    assert lost(now, "new", "it panicked", 0.0, by="", alone=True)[1] is Verdict.OPEN
    assert failed(now, "new", "it did not come up", 0.0, excused=False)[1] is Verdict.WENT_BACK
    assert lost(now, "old", "it panicked", 0.0, by="acme/web", alone=False) == (now, Verdict.OPEN)


def test_a_failure_is_excused_while_the_other_generation_fails_too():
    """Then it is the host, not the generation; it is tried later."""
    now = begun()
    for _ in range(9):
        now, verdict = failed(now, "new", "no memory", 1.0, excused=True)
        assert verdict is Verdict.OPEN
    assert now.trial == OPEN
    assert now.retry_at == 1.0 + RETRY


def test_what_follows_without_a_trial_comes_up_once():
    """Going back by hand is obeyed, but the one before serves until a machine of the other is there."""
    now = seen(Succession(serving="new"), Standing(current="old"))
    assert (now.serving, now.coming, now.trial) == ("new", "old", None)
    now, verdict = failed(now, "old", "it is damaged", 0.0, excused=False)
    assert (verdict, now.serving, now.coming) == (Verdict.OPEN, "new", "old")
    assert owed(now, Standing(current="old")) is None
    assert came_up(now, "old", needed=3) == (Succession(serving="old"), Verdict.TAKEN_OVER)


def test_no_leases_needed_means_coming_up_is_enough():
    """With `canary_leases = 0` a generation takes over with its first machine."""
    assert came_up(begun(), "new", needed=1)[1] is Verdict.OPEN
    now, verdict = came_up(begun(), "new", needed=0)
    assert verdict is Verdict.TAKEN_OVER
    assert owed(now, ON_TRIAL) == msgspec.structs.replace(OPEN, ended="passed")


def test_counts_are_put_on_record_as_they_come():
    """A restart loses none, and nothing is written that is there already."""
    now, _ = ended_well(begun(), "new", needed=3)
    written = owed(now, ON_TRIAL)
    assert written == msgspec.structs.replace(OPEN, good=1)
    assert owed(now, Standing(current="new", trial=written)) is None


def test_a_newer_generation_takes_the_place_of_one_on_trial():
    """What served goes on serving, and the newer one has its own trial."""
    newer = Standing(current="newer", trial=Trial(digest="newer", before="old"))
    now = seen(begun(), newer)
    assert (now.serving, now.coming) == ("old", "newer")
    assert outdated(now, "new")
    assert ended_well(now, "new", needed=1) == (now, Verdict.OPEN)
    assert failed(now, "new", "x", 0.0, excused=False) == (now, Verdict.OPEN)


def test_a_pass_that_was_not_written_comes_before_all_that_follows_it():
    """What was built since goes back to the one that passed, and loses nothing of its own count."""
    passed, _ = ended_well(begun(), "new", needed=1)
    newer = Trial(digest="newer", before="old")
    unwritten = Standing(current="newer", trial=newer, overtaken=(OPEN,))
    now = seen(passed, unwritten)
    for _ in range(TOO_MANY):
        now, verdict = failed(now, "newer", "it panicked", 0.0, excused=False)
        assert owed(now, unwritten) == msgspec.structs.replace(OPEN, ended="passed")
    assert verdict is Verdict.WENT_BACK
    written = Standing(current="newer", trial=msgspec.structs.replace(newer, before="new"))
    now = seen(now, written)
    assert (now.serving, now.refused) == ("new", "newer")
    failure = owed(now, written)
    assert failure is not None
    assert (failure.before, failure.ended, failure.bad) == ("new", "failed", TOO_MANY)
    never_passed = msgspec.structs.replace(unwritten, overtaken=(Trial(digest="other", before="old"),))
    assert owed(seen(passed, never_passed), never_passed) is None


def test_a_machine_of_an_unknown_generation_is_never_outdated():
    """A driver may not say what a machine was made from."""
    assert not outdated(Succession(serving="old"), "")
    assert not outdated(Succession(), "new")


@given(st.binary(max_size=40))
def test_a_record_that_cannot_be_read_is_none(tmp_path_factory, data):
    """Half a file, or another's, says nothing."""
    home = tmp_path_factory.mktemp("home")
    record(home, "d").write_bytes(data)
    assert read(home, "d") is None
    assert read(home, "absent") is None


class OnDisk(RuleBasedStateMachine):
    """A pool and its disk through any order of builds, leases, failures, late writes and restarts."""

    needed = 2

    def __init__(self):
        super().__init__()
        self.made, self.current, self.trials = 1, "g1", {}
        self.ends = {}
        """How often each generation's trial ended."""
        self.proved = {"g1"}
        """What may serve: machines of it came up and, on trial, kept their jobs."""
        self.now = Succession()
        self.clock = 0.0
        self.look()

    def standing(self):
        open_ = {digest: trial for digest, trial in self.trials.items() if not trial.ended}
        current = open_.pop(self.current, None)
        return Standing(current=self.current, trial=current, overtaken=tuple(open_.values()))

    def look(self):
        self.now = seen(self.now, self.standing())

    def enter(self, step):
        (self.now, verdict), generation = step, self.now.coming
        if verdict is not Verdict.OPEN:
            self.ends[generation] = self.ends.get(generation, 0) + 1
        if verdict is Verdict.TAKEN_OVER:
            self.proved.add(generation)

    @rule()
    def build(self):
        self.made += 1
        digest, trial = f"g{self.made}", self.standing().trial
        self.trials[digest] = Trial(digest=digest, before=self.current if trial is None else trial.before)
        self.current = digest

    @rule()
    def look_at_the_disk(self):
        self.look()

    @rule()
    def write_what_is_owed(self):
        self.look()
        trial = owed(self.now, self.standing())
        if trial is not None:
            follows = self.standing().trial
            if trial.digest != self.current and follows is not None and follows.before == trial.before:
                self.trials[self.current] = msgspec.structs.replace(follows, before=trial.digest)
            self.trials[trial.digest] = trial
            if trial.ended == "failed":
                assert trial.before == self.now.serving
                self.current = trial.before
            self.look()

    @precondition(lambda self: self.now.coming)
    @rule(good=st.booleans(), excused=st.booleans())
    def canary(self, good, excused):
        self.clock += 100.0
        assert wants_canary(self.now, {self.now.serving}, self.clock)
        coming = self.now.coming
        if good:
            self.enter(came_up(self.now, coming, needed=self.needed))
            self.enter(ended_well(self.now, coming, needed=self.needed))
        else:
            self.enter(failed(self.now, coming, "it panicked", self.clock, excused=excused))

    @rule()
    def restart(self):
        self.now = Succession()
        self.look()
        trial = self.standing().trial
        self.proved.add(self.now.serving)
        assert self.now.serving == (self.current if trial is None else trial.before)

    @invariant()
    def something_that_proved_itself_serves(self):
        assert self.now.serving in self.proved
        assert self.now.serving != self.now.coming
        assert not outdated(self.now, self.now.serving)


TestOnDisk = OnDisk.TestCase


class WithoutRestart(OnDisk):
    """The same without a restart, which may forget an end that could not be written yet."""

    restart = None

    @invariant()
    def a_trial_ends_once(self):
        assert all(times == 1 for times in self.ends.values())


TestWithoutRestart = WithoutRestart.TestCase


@pytest.mark.parametrize("needed", [1, 3])
def test_who_is_not_coming_counts_for_nothing(needed):
    """Jobs on the generation that serves prove nothing, and disprove nothing."""
    now = begun()
    assert ended_well(now, "old", needed=needed) == (now, Verdict.OPEN)
    assert came_up(now, "old", needed=needed) == (now, Verdict.OPEN)
    assert failed(now, "old", "x", 0.0, excused=False) == (now, Verdict.OPEN)
    assert ended_well(now, "", needed=needed) == (now, Verdict.OPEN)
