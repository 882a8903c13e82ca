"""What a job has come to so far: its steps' results, annotations and summaries, masked as they come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runnerd.jobs.masker import Masker
from runnerd.jobs.outcome import joined, storable
from runnerd.jobs.ports import Clock, StepObserver
from runnerd.model import Annotation, JobResult, Outcome, StepResult


class Record:
    """Collects what `JobResult` holds, and tells the observer of each step that ended."""

    def __init__(self, masker: Masker, observer: StepObserver, clock: Clock) -> None:
        self.annotations: list[Annotation] = []
        self.excused: set[int] = set()
        """Steps that may be cancelled without being counted: a `cancel` was meant to stop them."""
        self._masker = masker
        self._observer = observer
        self._clock = clock
        self._results: dict[int, StepResult] = {}
        self._summaries: dict[int, str] = {}

    @property
    def results(self) -> tuple[StepResult, ...]:
        """The steps that ended or were skipped, in the order shown to people."""
        return tuple(self._results[number] for number in sorted(self._results))

    def has(self, number: int) -> bool:
        """Whether this step ended or was skipped."""
        return number in self._results

    def hidden(self, text: str) -> str:
        """Return a text as it may be stored: secrets masked, nothing in it that a database refuses."""
        return storable(self._masker.mask(text))

    async def put(
        self,
        number: int,
        key: str,
        name: str,
        outcome: Outcome,
        conclusion: Outcome,
        *,
        reason: str = "",
        exit_code: int | None = None,
        started: float | None = None,
    ) -> None:
        """Record how a step ended, and tell."""
        result = StepResult(
            number=number,
            id=key,
            name=self.hidden(name),
            outcome=outcome,
            conclusion=conclusion,
            exit_code=exit_code,
            started=started,
            ended=None if started is None else self._clock(),
            reason=self.hidden(reason),
        )
        self._results[number] = result
        await self._observer.step_ended(result)

    def add(self, number: int, annotations: Iterable[Annotation], summary: str) -> None:
        """Keep a step's annotations, which are masked, and its summary, which is not yet."""
        self.annotations += annotations
        if summary.strip():
            self._summaries[number] = summary

    @property
    def summaries(self) -> dict[int, str]:
        """Each step's summary, masked."""
        return {number: self.hidden(text) for number, text in self._summaries.items()}

    async def resume(
        self,
        results: Iterable[StepResult],
        annotations: Iterable[Annotation],
        summaries: Mapping[int, str],
        excused: Iterable[int],
    ) -> None:
        """Have what a job had come to once, and tell of each step that ended then."""
        self.annotations += annotations
        self._summaries |= summaries
        self.excused |= set(excused)
        for result in results:
            self._results[result.number] = result
            await self._observer.step_ended(result)

    def judged(self) -> tuple[Outcome, str]:
        """Return the outcome and its reason that follow from the steps: the first that failed tells."""
        for step in self.results:
            excused = step.conclusion is Outcome.CANCELLED and step.number in self.excused
            if not step.conclusion.green and not excused:
                return Outcome.FAILURE, f"the step {step.name!r} failed: {step.reason}"
        return Outcome.SUCCESS, ""

    def result(self, outcome: Outcome, reason: str, outputs: Mapping[str, str], *, summary: int) -> JobResult:
        """Return the job's result; its summary has at most `summary` characters."""
        text = "\n\n".join(self._summaries[number] for number in sorted(self._summaries))
        return JobResult(
            outcome=outcome,
            reason=self.hidden(reason),
            outputs=dict(outputs),
            steps=self.results,
            annotations=tuple(self.annotations),
            summary=joined(self.hidden(text), summary),
        )
