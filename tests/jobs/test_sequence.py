"""A job's steps in the order they are taken."""

from runnerd.jobs.sequence import Placed, placed
from runnerd.workflow import load


def steps(text: str) -> tuple[Placed, ...]:
    job = load(f"on: push\njobs: {{a: {{runs-on: x, steps: {text}}}}}", path="w").jobs["a"]
    return placed(job.steps)


def test_steps_without_an_id_get_githubs_names():
    """By what they do, counted; those with an id keep it."""
    found = steps(
        "[{run: a}, {run: b}, {id: me, run: c}, {uses: actions/checkout@v4}, {uses: Actions/Checkout/x@v4}, "
        "{uses: ./here}, {uses: 'docker://alpine:3'}, {wait-all: }]"
    )
    assert [each.action for each in found] == [
        "__run",
        "__run_2",
        "me",
        "__actions_checkout",
        "__Actions_Checkout_2",
        "__self",
        "__alpine_3",
        "__wait-all",
    ]


def test_a_group_is_opened_into_background_steps_and_a_wait():
    """The wait is the last, and waits for them alone."""
    found = steps("[{run: a}, {name: Both, parallel: [{run: b}, {run: c}]}, {run: d}]")
    assert [(each.number, each.background, each.control) for each in found] == [
        (1, False, False),
        (2, True, False),
        (3, True, False),
        (4, False, True),
        (5, False, False),
    ]
    assert (found[3].targets, found[3].step.name) == ((2, 3), "Both")


def test_what_a_group_says_holds_for_its_steps():
    """Its `if` besides their own, and its `continue-on-error` where they have none."""
    first, second, _ = steps(
        "[{if: failure(), continue-on-error: true, parallel: "
        "[{run: a}, {run: b, continue-on-error: '${{ false }}'}]}]"
    )
    assert (first.group, first.step.condition) == ("failure()", None)
    assert first.step.continue_on_error is True
    assert second.step.continue_on_error == "${{ false }}"


def test_waits_and_cancels_name_steps_before_them_without_case():
    """Steps of a group can be named too."""
    found = steps(
        "[{id: one, run: a, background: true}, {parallel: [{id: two, run: b}]}, {wait: [ONE, two]}, "
        "{cancel: one}]"
    )
    assert [each.targets for each in found] == [(), (), (2,), (1, 2), (1,)]
