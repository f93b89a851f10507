"""The targets of assignments: what they bind, and how they unpack."""

from __future__ import annotations

import ast
from typing import Any

__all__ = ["Shape", "bound_names", "is_nested", "pattern_names", "shape_of"]

# How a target unpacks: for each part None, another shape, or a `Star`.
Shape = tuple[Any, ...]
STAR = "*"


def bound_names(*targets: ast.expr) -> list[str]:
    """Return the names that targets bind."""
    return [
        node.id
        for target in targets
        for node in ast.walk(target)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del)
    ]


def pattern_names(pattern: ast.pattern) -> list[str]:
    """Return the names that a pattern of ``match`` binds."""
    found: dict[str, None] = {}
    for node in ast.walk(pattern):
        if isinstance(node, ast.MatchAs | ast.MatchStar) and node.name is not None:
            found[node.name] = None
        elif isinstance(node, ast.MatchMapping) and node.rest is not None:
            found[node.rest] = None
    return list(found)


def shape_of(target: ast.expr) -> Shape | None:
    """Return how a target unpacks what it is given; None: it does not.

    A part is None, the shape of what it unpacks, or, of a star, a pair of `STAR` and one of these.
    """
    if not isinstance(target, ast.Tuple | ast.List):
        return None
    return tuple(
        (STAR, shape_of(each.value)) if isinstance(each, ast.Starred) else shape_of(each)
        for each in target.elts
    )


def is_nested(shape: Shape) -> bool:
    """Return whether a part of a shape unpacks what it is given."""
    return any(each is not None and each != (STAR, None) for each in shape)
