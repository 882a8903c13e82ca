"""What crosses to the reading process and back is the same on both sides."""

import pytest
from msgspec import MsgspecError

from runnerd.reading import exchange
from runnerd.workflow import WorkflowErrors, load


def test_every_workflow_comes_back_as_it_was_read(reference):
    """The workflows of GitHub's examples are equal after the way through bytes."""
    count = 0
    for case in reference("workflow_parser.json"):
        try:
            workflow = load(case["input"], path="w.yml", features=frozenset(("background",)))
        except WorkflowErrors as errors:
            answer = exchange.Answer(problems=errors.problems)
        else:
            answer, count = exchange.Answer(workflow=workflow), count + 1
        # As text, for a value may be NaN.
        assert repr(exchange.answer(exchange.encode(answer))) == repr(answer)
    assert count > 60


def test_an_answer_is_typed_data():
    """Bytes that are no answer are refused, whoever sends them."""
    for wrong in (b"", b"\x80\x04", b'{"workflow": 1}', exchange.encode(exchange.Answer())[:-1]):
        with pytest.raises(MsgspecError):
            exchange.answer(wrong)
