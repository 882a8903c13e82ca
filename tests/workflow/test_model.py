"""The data of the workflow language."""

from __future__ import annotations

from runnerd.workflow.model import ExpressionError, Problem, WorkflowErrors


def test_a_problem_reads_like_a_compiler_message():
    """`path:line:column: severity: message`, and problems sort by their place."""
    first = Problem(path="w.yml", line=2, column=9, message="no")
    second = Problem(path="w.yml", line=10, column=1, message="neither")
    assert str(first) == "w.yml:2:9: error: no"
    assert sorted([second, first]) == [first, second]


def test_workflow_errors_print_every_problem():
    """The exception's text has one line per problem."""
    errors = WorkflowErrors((Problem(path="w", line=1, column=1, message="a"),) * 2)
    assert str(errors).count("\n") == 1


def test_an_expression_error_has_text_and_offset():
    """What a caret needs is on the error."""
    error = ExpressionError("no", text="a b", offset=2)
    assert (error.text, error.offset) == ("a b", 2)
