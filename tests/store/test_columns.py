"""What goes into a column comes out the same, except for what no database takes."""

import enum
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from runnerd.model import Actor, StepResult
from runnerd.store.columns import Clean, Json, Word, clean, encode, records

SQLITE = sa.create_engine("sqlite://").dialect


class Colour(enum.StrEnum):
    """Words for a column."""

    RED = "red"


def through(column: sa.types.TypeDecorator, value: Any) -> Any:
    """A value on its way into a column and back."""
    stored = column.process_bind_param(value, SQLITE)
    return stored if isinstance(column, Clean) else column.process_result_value(stored, SQLITE)


@given(st.text())
def test_clean_text_is_text_for_every_database(text):
    """Any text becomes valid UTF-8 without NUL; text that was such before is left as it was."""
    cleaned = clean(text)
    assert "\0" not in cleaned.encode().decode()
    assert clean(cleaned) == cleaned
    if "\0" not in text and text.encode("utf-8", "replace").decode() == text:
        assert cleaned == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_value_of_a_workflow_can_be_stored(value):
    """JSON never fails on text with lone surrogates or on large numbers, and is valid when stored."""
    stored = encode(value)
    stored.encode()
    if "\\ud" not in ascii(value):
        assert through(Json(), value) == value


def test_json_has_the_type_of_its_column():
    """Structs come back as structs, and NULL as None."""
    step = StepResult(number=1, id="a", name="A", outcome="success", conclusion="success")
    column = Json(tuple[StepResult, ...])
    assert through(column, (step,)) == (step,)
    assert through(column, None) is None


def test_words_are_members_of_their_enum():
    """A word is stored as its value and read as the member; an unknown one is an error."""
    column = Word(Colour)
    assert column.process_bind_param(Colour.RED, SQLITE) == "red"
    assert through(column, Colour.RED) is Colour.RED
    assert through(column, None) is None
    with pytest.raises(ValueError, match="green"):
        column.process_result_value("green", SQLITE)


def test_rows_become_structs_by_their_place():
    """Columns are taken in the order of the fields; too few of them are a mistake and no struct."""
    with sa.create_engine("sqlite://").connect() as connection:
        names = connection.execute(sa.text("SELECT 1 AS other, 'a' AS names UNION SELECT 2, 'b' ORDER BY 1"))
        assert records(Actor, names) == [Actor(id=1, login="a"), Actor(id=2, login="b")]
        with pytest.raises(ValueError, match="shorter"):
            records(Actor, connection.execute(sa.text("SELECT 1")))
