"""Expressions that look into the machine."""

import pytest

from runnerd.jobs.evaluation import evaluated, status_functions
from runnerd.workflow import ExpressionError, condition, evaluate


class Hashes:
    """Answers, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    async def __call__(self, patterns: tuple[str, ...]) -> str:
        self.asked.append(patterns)
        return "h-" + "-".join(patterns)


async def test_an_expression_without_hashes_asks_nobody():
    """The machine is not disturbed."""
    hashes = Hashes()
    assert await evaluated(lambda f: evaluate("1", {}, functions=f), {}, hashes) == 1
    assert hashes.asked == []


async def test_each_hash_is_fetched_once():
    """The same patterns twice are one question, and nested ones come after the first answer."""
    hashes = Hashes()
    text = "format('{0} {1} {2}', hashFiles('a', 'b'), hashFiles('a', 'b'), hashFiles(hashFiles('c')))"
    value = await evaluated(lambda f: evaluate(text, {}, functions=f), {}, hashes)
    assert value == "h-a-b h-a-b h-h-c"
    assert hashes.asked == [("a", "b"), ("c",), ("h-c",)]


async def test_what_short_circuits_is_not_fetched():
    """A hash behind a false `&&` is never computed."""
    hashes = Hashes()
    assert (
        await evaluated(lambda f: evaluate("false && hashFiles('x')", {}, functions=f), {}, hashes) is False
    )
    assert hashes.asked == []


async def test_an_error_that_only_the_missing_answer_caused_goes_away():
    """What is not known yet is never taken for the answer."""
    text = "fromJSON(hashFiles('x'))"

    async def number(_patterns: tuple[str, ...]) -> str:
        return "12"

    assert await evaluated(lambda f: evaluate(text, {}, functions=f), {}, number) == 12


async def test_an_error_of_the_expressions_own_is_raised():
    """With or without hashes."""
    with pytest.raises(ExpressionError):
        await evaluated(lambda f: evaluate("fromJSON('{')", {}, functions=f), {}, Hashes())


async def test_endless_new_questions_are_ended():
    """An expression cannot keep the machine busy for ever."""
    count = 0

    def always_new(functions):
        nonlocal count
        count += 1
        return functions["hashFiles"](str(count))

    with pytest.raises(ExpressionError, match="more than 20"):
        await evaluated(always_new, {}, Hashes())


@pytest.mark.parametrize(
    ("status", "holding"),
    [
        ("success", {"success", "always"}),
        ("failure", {"failure", "always"}),
        ("cancelled", {"cancelled", "always"}),
    ],
)
def test_status_functions_say_how_the_job_stands(status, holding):
    """Exactly the function of that name holds, and always()."""
    functions = status_functions(status)
    names = ("success", "failure", "cancelled", "always")
    assert {name for name in names if condition(f"{name}()", {}, functions=functions)} == holding
