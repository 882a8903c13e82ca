"""Why each who waits for a machine has none yet, for people: what `pool.decide` goes by, told."""

from __future__ import annotations

from collections import Counter

from runnerd.machines.pool import Failing, Rules, Slot, Stage, State, hindrance

BROUGHT_BACK = "the machine it goes on in is being brought back"


def reasons(state: State, rules: Rules, now: float) -> dict[int, str]:
    """Say by ticket why it has no machine; of several causes the one that has to go first."""
    alive = Counter(slot.image for slot in state.slots)
    coming = Counter(slot.image for slot in state.slots if slot.stage is Stage.BUILDING)
    leaving = sum(slot.stage is Stage.LEAVING for slot in state.slots)
    busy = sum(slot.stage in (Stage.BUILDING, Stage.PREPARING) for slot in state.slots)
    failing = {f.image: f for f in state.failing if now < f.retry_at}
    soon = f"; {leaving} of them being destroyed" if leaving else ""
    held_up = ""
    found: dict[int, str] = {}

    slots = list(state.slots)

    def no_room(image: str) -> str:
        reason = hindrance(slots, rules, image)
        return "" if reason is None else reason + soon

    for who in state.waiting:
        limit = rules.shelf(who.image).max_total
        if state.paused:
            why = "the pool is paused"
        elif who.image in failing and not who.kept:
            why = failed(failing[who.image], now)
        elif coming[who.image] and not who.kept:
            coming[who.image] -= 1
            first = ", its image's template first" if who.image in state.cold else ""
            why = f"its machine is being made{first}"
        elif limit and alive[who.image] >= limit:
            why = no_room(who.image)  # what others wait for does not hang on this one
        elif held_up:
            why = f"those who came first are served first, and there is no room for them: {held_up}"
        elif room := no_room(who.image):
            why = held_up = room
        elif who.kept:
            why = "it is about to get the machine that was kept for it"
        elif busy >= rules.builders:
            why = f"no more than {busy} machines are made at once: those who came first have them first"
            slots.append(Slot("promised", who.image, Stage.BUILDING, now))
        else:
            why = "it is about to get a machine"
        found[who.ticket] = why
    return found


def failed(failing: Failing, now: float) -> str:
    """Say that an image's builds fail, and when the next is tried."""
    times = "a build" if failing.count == 1 else f"{failing.count} builds in a row"
    soon = max(0.0, failing.retry_at - now)
    return f"{times} of image {failing.image} failed, the next is tried in {soon:.0f} s: {failing.reason}"
