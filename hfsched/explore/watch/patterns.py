"""The watched form of the patterns of ``match``; see `hfsched.explore.watch.matching`."""

from __future__ import annotations

import ast
from collections.abc import Callable

__all__ = ["PROBES", "class_names", "probed"]

PROBES = "\0hfsched.probes"  # a name of `builtins`: a pattern cannot have a constant


def class_names(pattern: ast.pattern) -> list[str]:
    """Return the names that a pattern reads."""
    found = {
        node.id: None
        for node in ast.walk(pattern)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    return list(found)


def probed(pattern: ast.pattern, filename: str, mangled: Callable[[str], str]) -> ast.pattern:
    """Return a pattern that reports what it reads."""
    return _Probing(filename, mangled).visit(pattern)  # type: ignore[no-any-return]


class _Probing(ast.NodeTransformer):
    def __init__(self, filename: str, mangled: Callable[[str], str]) -> None:
        self._filename = filename
        self._mangled = mangled

    def _probe(self, node: ast.pattern, kind: str, *data: object) -> ast.pattern:
        spec = repr((kind, self._filename, node.lineno, *data))
        probes = ast.Attribute(ast.Name(PROBES, ast.Load()), spec, ast.Load())
        made = ast.MatchClass(probes, [node], [], [])
        for each in (made, probes, probes.value):
            ast.copy_location(each, node)
        return made

    def _dotted(self, node: ast.expr) -> str:
        """Return a name with attributes as a text; empty: it is none."""
        if isinstance(node, ast.Name):
            return self._mangled(node.id)
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{self._mangled(node.attr)}"
        return ""

    def visit_MatchValue(self, node: ast.MatchValue) -> ast.pattern:
        return self._probe(node, "value", self._dotted(node.value))

    def visit_MatchClass(self, node: ast.MatchClass) -> ast.pattern:
        dotted, names = self._dotted(node.cls), tuple(node.kwd_attrs)
        node.patterns = [self.visit(each) for each in node.patterns]
        node.kwd_patterns = [self.visit(each) for each in node.kwd_patterns]
        return self._probe(node, "class", dotted, names, len(node.patterns))

    def visit_MatchSequence(self, node: ast.MatchSequence) -> ast.pattern:
        stars = [each for each in node.patterns if isinstance(each, ast.MatchStar)]
        node.patterns = [self.visit(each) for each in node.patterns]
        copies = any(each.name is not None for each in stars)
        return self._probe(node, "sequence", len(node.patterns) - len(stars), not stars, copies)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> ast.pattern:
        keys = []
        for each in node.keys:
            dotted = self._dotted(each)
            keys.append((True, dotted) if dotted else (False, ast.literal_eval(each)))
        node.patterns = [self.visit(each) for each in node.patterns]
        return self._probe(node, "mapping", tuple(keys), node.rest is not None)
