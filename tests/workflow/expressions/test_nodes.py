"""The tree's depth, which bounds everything that walks it."""

from __future__ import annotations

from runnerd.workflow.expressions.nodes import Index, Literal, Logical, Named


def test_a_chain_of_one_operator_is_flat():
    """`a && b && c` is one node, so that long conditions are not deep."""
    node = Named("a", 0)
    for _ in range(100):
        node = Logical("&&", node, Literal(True))
    assert node.depth == 2
    assert len(node.operands) == 101


def test_every_step_of_a_path_is_deeper():
    """`a.b.c` nests."""
    node = Index(Index(Named("a", 0), Literal("b")), None)
    assert node.depth == 3
