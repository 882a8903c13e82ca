"""What the pool's machines are made from: the templates, and which generation of an image is used for what.

It reads how images stand on disk, keeps count of canaries, and lets go of what nobody uses. What follows
from it is decided in `machines.generation_trial`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

import trio

from runnerd import log, metrics
from runnerd.machines import generation_trial, pool
from runnerd.machines.driver import Driver, Size, Template
from runnerd.machines.generation_trial import Standing, Succession, Trial, Verdict
from runnerd.machines.kinds import Kind

_log = log.get("pool")

LOOK_EVERY = 60.0
"""Seconds between looks at what is on disk; `look_soon` asks for one at once."""


class Records(Protocol):
    """How images stand on disk; see `machines.generations`."""

    async def standing(self, image: str) -> Standing | None:
        """Return it, or None where there are no generations. Raises OSError; it is looked at again then."""
        ...

    async def settle(self, image: str, trial: Trial) -> None:
        """Put a trial on record and go back where it says so. Raises OSError; it is tried again then."""
        ...


class Unrecorded:
    """Images without generations: machines boot from whatever the driver takes."""

    async def standing(self, image: str) -> Standing | None:
        """Nothing is known."""
        await trio.lowlevel.checkpoint()
        return None

    async def settle(self, image: str, trial: Trial) -> None:
        """There is nothing to write down."""
        await trio.lowlevel.checkpoint()


class PoolImages:
    """The images of `kinds`. A new generation needs `canary_leases` that end well before it takes over.

    `changed` is told which kinds have machines of another generation from now on.
    """

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        records: Records,
        *,
        canary_leases: int,
        clock: Callable[[], float],
        changed: Callable[[Collection[str]], object],
    ) -> None:
        self._images = {name: kind.image or name for name, kind in kinds.items()}
        self._sizes = {name: kind.size for name, kind in kinds.items()}
        self._records = records
        self._needed = canary_leases
        self._clock = clock
        self._changed = changed
        self._successions = dict.fromkeys(self._images.values(), Succession())
        self._standings: dict[str, Standing] = {}
        self._templates: dict[tuple[str, Size, str], Template] = {}
        """By image, size and the generation that was asked for."""
        self._making: dict[tuple[str, Size, str], trio.Lock] = {}
        self._stirred = trio.Event()
        self._users: dict[str, frozenset[str]] = {}
        """Repositories whose jobs had machines of an image; one more than one is not kept."""

    async def keep(self, driver: Driver, slots: Callable[[], Iterable[pool.Slot]]) -> None:
        """Go on looking at the disk, and let go of templates that no machine of `slots` needs."""
        while True:
            with trio.move_on_after(LOOK_EVERY):
                await self._stirred.wait()
            self._stirred = trio.Event()
            await self.look()
            await self._drop_unused(driver, slots())

    def look_soon(self) -> None:
        """Have the next look at once: something was built, or is to be written down."""
        self._stirred.set()

    async def look(self) -> None:
        """See how the images stand on disk, and write down what is owed."""
        for image in self._successions:
            try:
                standing = await self._records.standing(image)
            except OSError as problem:
                _log.error("how an image stands cannot be seen", image=image, problem=str(problem))
                continue
            if standing is None:
                continue
            before = self._successions[image]
            now = generation_trial.seen(before, standing)
            self._successions[image], self._standings[image] = now, standing
            if (now.serving, now.coming) != (before.serving, before.coming):
                self._tell(image)
                if before.serving and now.coming:
                    _log.info("a new generation is taken up", image=image, generation=now.coming[:12])
            owed = generation_trial.owed(now, standing)
            if owed is not None:
                try:
                    await self._records.settle(image, owed)
                except OSError as problem:
                    _log.error("a trial could not be put on record", image=image, problem=str(problem))
                else:
                    self._stirred.set()  # to see what became of it

    async def template(self, driver: Driver, kind: str, generation: str) -> Template:
        """Return the template of a kind of machine, made at most once. Raises `NoMachine` with the cure."""
        key = (self._images[kind], self._sizes[kind], generation)
        async with self._making.setdefault(key, trio.Lock()):
            if key not in self._templates:
                self._templates[key] = await driver.build_template(*key)
            return self._templates[key]

    @property
    def any_template(self) -> bool:
        """Whether machines of some kind can be made at once."""
        return bool(self._templates)

    def cold(self) -> tuple[str, ...]:
        """The kinds that have no template of the generation that serves."""
        return tuple(
            kind
            for kind, image in self._images.items()
            if (image, self._sizes[kind], self._successions[image].serving) not in self._templates
        )

    def generation(self, kind: str, *, canary: bool) -> str:
        """The generation that a machine is to be of; empty for the driver's current one."""
        succession = self._successions[self._images[kind]]
        return succession.coming if canary else succession.serving

    def canaries(self, slots: Collection[pool.Slot], waited_for: Collection[str]) -> tuple[str, ...]:
        """The kinds whose next machine is to be a canary: one of an image, rather one that is waited for."""
        now, found = self._clock(), []
        for image, succession in self._successions.items():
            kinds = [kind for kind in self._images if self._images[kind] == image]
            alive = {slot.generation for slot in slots if slot.image in kinds}
            if generation_trial.wants_canary(succession, alive, now):
                found.append(min(kinds, key=lambda kind: kind not in waited_for))
        return tuple(found)

    def outdated(self, slots: Iterable[pool.Slot]) -> frozenset[str]:
        """The machines that are of a generation which neither serves nor is on trial."""
        return frozenset(
            slot.machine
            for slot in slots
            if generation_trial.outdated(self._successions[self._images[slot.image]], slot.generation)
        )

    def wake_at(self) -> float | None:
        """When the next canary may be made after one that failed, or None."""
        times = [each.retry_at for each in self._successions.values() if each.coming]
        return min((time for time in times if time > self._clock()), default=None)

    def came_up(self, kind: str, generation: str) -> None:
        """A machine passed the thaw gate."""
        image = self._images[kind]
        self._enter(
            image, *generation_trial.came_up(self._successions[image], generation, needed=self._needed)
        )

    def ended_well(self, kind: str, generation: str) -> None:
        """A job ended its machine, which had not been lost."""
        image = self._images[kind]
        self._enter(
            image, *generation_trial.ended_well(self._successions[image], generation, needed=self._needed)
        )

    def used(self, kind: str, by: str) -> None:
        """A job of this repository, if it is not empty, is given a machine."""
        users = self._users.get(self._images[kind], frozenset())
        if by and len(users) < 2:
            self._users[self._images[kind]] = users | {by}

    def lost(self, kind: str, generation: str, reason: str, *, by: str) -> None:
        """A job of the repository `by` lost its machine; see `generation_trial.lost`."""
        image = self._images[kind]
        before = self._successions[image]
        if not generation or generation != before.coming:
            return
        _log.warning(
            "a job lost a canary", image=image, generation=generation[:12], reason=reason, repository=by
        )
        alone = self._users.get(image, frozenset()) <= {by}
        now = self._clock()
        self._enter(image, *generation_trial.lost(before, generation, reason, now, by=by, alone=alone))

    def failed(self, kind: str, generation: str, reason: str, *, excused: bool = False) -> bool:
        """A machine did not come up; False when it was no canary, so that it counts elsewhere."""
        image = self._images[kind]
        before = self._successions[image]
        if not generation or generation != before.coming:
            return False
        _log.warning("a canary failed", image=image, generation=generation[:12], reason=reason)
        after = generation_trial.failed(before, generation, reason, self._clock(), excused=excused)
        self._enter(image, *after)
        return True

    def _enter(self, image: str, now: Succession, verdict: Verdict) -> None:
        before, self._successions[image] = self._successions[image], now
        if verdict is Verdict.TAKEN_OVER:
            _log.info("a generation took over", image=image, generation=now.serving[:12])
        if verdict is Verdict.WENT_BACK:
            metrics.image_rollbacks.labels(image=image).inc()
            _log.error(
                "a generation failed its trial: the one before goes on",
                image=image,
                generation=before.coming[:12],
                serving=now.serving[:12],
                reason=now.trial.reason if now.trial is not None else "",
            )
        if verdict is not Verdict.OPEN:
            self._tell(image)
        if now != before:
            self.look_soon()

    def _tell(self, image: str) -> None:
        self._changed([kind for kind, its in self._images.items() if its == image])

    def trouble(self) -> tuple[str, ...]:
        """A sentence for each image whose newest generation failed its trial, or does not come up."""
        said = []
        for image, now in self._successions.items():
            standing = self._standings.get(image)
            failed = now.trial if now.refused else standing.failed if standing is not None else None
            if failed is not None:
                back = now.serving if now.refused else failed.before
                said.append(
                    f"image {image}: generation {failed.digest[:12]} failed its trial and went back to "
                    f"{back[:12]}: {failed.reason}"
                )
            elif now.coming and now.reason:
                said.append(f"image {image}: a canary of {now.coming[:12]} failed: {now.reason}")
        return tuple(said)

    def trials(self) -> tuple[str, ...]:
        """A sentence for each image that has a generation which is to follow the one that serves."""
        return tuple(
            f"image {image}: generation {now.coming[:12]} "
            + (
                f"is on trial, {now.trial.good} of {self._needed} leases went well"
                if now.trial
                else "follows"
            )
            + f"; {now.serving[:12]} serves"
            for image, now in self._successions.items()
            if now.coming
        )

    async def _drop_unused(self, driver: Driver, slots: Iterable[pool.Slot]) -> None:
        """Let go of templates that no machine is made from any more."""
        alive = {(self._images[s.image], self._sizes[s.image], s.generation) for s in slots}
        kept = {}
        for key, template in self._templates.items():
            now = self._successions[key[0]]
            if (
                key[2] in (now.serving, now.coming)
                or key in alive
                or (*key[:2], template.generation) in alive
            ):
                kept[key] = template
        held = {template.key for template in kept.values()}
        gone = {each.key: each for each in self._templates.values() if each.key not in held}
        self._templates = kept
        for template in gone.values():
            await driver.drop_template(template)
