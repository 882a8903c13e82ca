"""GitHub's expression language: `evaluate`, `interpolate`, `value_of`, `condition`."""

from runnerd.workflow.expressions.evaluation import condition, evaluate, interpolate, value_of
from runnerd.workflow.model import ExpressionError

__all__ = ["ExpressionError", "condition", "evaluate", "interpolate", "value_of"]
