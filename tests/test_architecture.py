"""Imports follow the table of layers in docs/architecture.md; private names stay in their package."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
TABLE = (
    (TOP / "docs" / "architecture.md").read_text().partition("## Layers")[2].partition("\n## ")[0]
)
ROWS = [re.findall(r"`([\w.]+)`", row.split("|")[1]) for row in TABLE.splitlines() if "| `" in row]
LAYERS = {f"hfsched.{name}": len(ROWS) - at for at, row in enumerate(ROWS) for name in row}
MODULES = {
    ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
        path.read_text()
    )
    for path in sorted((TOP / "hfsched").rglob("*.py"))
}


def package(module: str) -> str:
    """Return the name in the table under which a module stands: the longest that it begins with."""
    found = [name for name in LAYERS if f"{module}.".startswith(f"{name}.")]
    return max(found, key=len, default=module)


def imports(tree: ast.AST) -> set[str]:
    """Return the project's modules that a tree imports, at any depth."""
    found = {
        each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{each.name}" for each in node.names]
            found |= {name if name in MODULES else node.module for name in inner}
    return {name for name in found if name in MODULES}


def test_every_import_goes_down() -> None:
    wrong = [
        f"{module} -> {target}"
        for module, tree in MODULES.items()
        for target in imports(tree)
        if package(module) != package(target)
        and LAYERS.get(package(module), 99) <= LAYERS.get(package(target), -1)
    ]
    assert not wrong
    assert not {package(module) for module in MODULES} - {"hfsched", *LAYERS}, "not in the table"


def test_the_explorer_knows_no_hypervisor() -> None:
    known = {"hfsched", "hfsched.errors", "hfsched.explore", "hfsched.runtime", "hfsched.text"}
    found = {
        package(target)
        for module, tree in MODULES.items()
        if package(module) == "hfsched.explore"
        for target in imports(tree)
    }
    assert found == known


def test_no_modules_import_each_other_in_a_circle() -> None:
    """What is imported for type checkers alone is left out."""
    graph: dict[str, set[str]] = {}
    for module, tree in MODULES.items():
        for node in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
            if ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = [ast.Pass()]
        graph[module] = imports(tree) - {module}
    assert list(TopologicalSorter(graph).static_order())


def test_private_names_are_used_in_the_package_that_defines_them() -> None:
    defined: dict[str, set[str]] = defaultdict(set)
    used: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                defined[node.name].add(package(module))
            elif isinstance(node, ast.Attribute | ast.Name):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                if isinstance(node.ctx, ast.Store):
                    defined[name].add(package(module))
                elif re.match(r"_[^_]", name) and ast.unparse(node).partition(".")[0] not in (
                    "os",
                    "sys",
                ):
                    used[name].add((package(module), module))
    wrong = [
        f"{module}: {name}"
        for name, places in used.items()
        for where, module in places
        if defined[name] and where not in defined[name]
    ]
    assert not wrong


def test_sockets_and_processes_are_the_runtimes() -> None:
    """Except at the edges: names of sockets, host programs, the fuzzer's workers."""
    edges = {"hfsched.client", "hfsched.explore.campaign.pool"}
    edges |= {
        f"hfsched.control.{name}"
        for name in (
            "command_client",
            "named_socket",
            "port_client",
            "runtime_dir",
            "snapshot_client",
        )
    }
    for module, tree in MODULES.items():
        if module in edges or module.startswith("hfsched.runtime.threads"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = {each.name for each in node.names}
                assert not names & {"multiprocessing", "socket", "subprocess"}, module
            assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "os.eventfd"), (
                module
            )


def test_threads_and_time_are_the_runtimes() -> None:
    """Except at the edges: the command line, host programs, the fuzzer's workers and their budget."""
    edges = {"hfsched.cli", "hfsched.client", "hfsched.client_asyncio", "hfsched.explore.campaign"}
    edges |= {"hfsched.control.port_client", "hfsched.control.snapshot_client"}
    edges |= {"hfsched.runtime.threads"}
    wrong = [
        f"{module}: {name}"
        for module, tree in MODULES.items()
        if not any(f"{module}.".startswith(f"{edge}.") for edge in edges)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(each.name for each in node.names)]
        if name in {"asyncio", "threading", "time"}
    ]
    assert not wrong
