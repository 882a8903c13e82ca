"""Concurrency groups: who goes on, who waits, and who is called off."""

from hypothesis import given
from hypothesis import strategies as st

from runnerd.workflow.concurrency import QUEUE, Entry, Standing, arrive, key_of, leave

W, H, S, D, OVER = Standing.WAITING, Standing.HOLDING, Standing.STOPPING, Standing.DISPLACED, Standing.OVER


def entry(id, standing=W, **keys):
    return Entry(id=id, who=f"run {id}", standing=standing, **keys)


def moves(found):
    return {move.id: move.standing for move in found}


def test_the_first_goes_on():
    """Nobody is there: it need not wait."""
    assert moves(arrive([], entry(1))) == {1: H}


def test_the_second_waits_and_says_for_whom():
    """One goes on at a time."""
    (move,) = arrive([entry(1, H)], entry(2))
    assert (move.standing, move.reason) == (W, "waits for run 1 in its concurrency group")


def test_the_newest_waits_and_the_older_is_called_off():
    """One waits at a time; the reason names who came."""
    found = arrive([entry(1, H), entry(2)], entry(3))
    assert moves(found) == {2: D, 3: W}
    assert found[0].reason.startswith("run 3 came")


def test_cancel_in_progress_asks_the_running_one_to_stop():
    """The newcomer waits until it did."""
    assert moves(arrive([entry(1, H)], entry(2, cancels=True))) == {1: S, 2: W}


def test_a_queue_keeps_those_that_wait():
    """With `queue: max` nobody is displaced, and the oldest follows."""
    assert moves(arrive([entry(1, H), entry(2)], entry(3, queue="max"))) == {3: W}
    assert moves(leave([entry(1, H), entry(2), entry(3)], 1)) == {1: OVER, 2: H}


def test_a_full_queue_takes_nobody():
    """The hundred and first is called off."""
    full = [entry(1, H), *(entry(n) for n in range(2, QUEUE + 2))]
    assert moves(arrive(full, entry(999, queue="max"))) == {999: D}


def test_nobody_follows_while_one_is_stopping():
    """Who was asked to stop still goes on until it ended."""
    assert moves(leave([entry(1, S), entry(2), entry(3)], 2)) == {2: OVER}


def test_case_does_not_tell_groups_apart():
    """`Deploy` and `deploy` are one group."""
    assert key_of("Deploy ") == key_of("deploy")


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=40))
def test_at_most_one_goes_on_and_nobody_waits_for_nobody(history):
    """Whatever comes and goes: one holds at most, and where some wait somebody holds."""
    state = {}
    for id, (comes, cancels, queue) in enumerate(history, 1):
        alive = [each for each in state.values() if each.standing in (W, H, S)]
        if comes or not alive:
            new = entry(id, cancels=cancels, queue="max" if queue else "single")
            state[id] = new
            found = arrive(alive, new)
        else:
            found = leave(alive, alive[id % len(alive)].id)
        for move in found:
            old = state[move.id]
            state[move.id] = Entry(id=old.id, who=old.who, standing=move.standing)
        now = [each.standing for each in state.values()]
        assert sum(each in (H, S) for each in now) <= 1
        assert W not in now or H in now or S in now
