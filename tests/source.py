"""Reads the packages as source, for the tests that judge imports and style."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("influence", "ekfac", "lissa")


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted name -> syntax tree of every module in the packages."""
    trees = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            trees[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return trees


def file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _for_type_checkers(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def statements(tree: ast.AST, types_too: bool) -> Iterator[ast.AST]:
    """Every node, at the top and in functions; without those for type checkers unless `types_too`."""
    for node in ast.iter_child_nodes(tree):
        if not types_too and _for_type_checkers(node):
            for other in getattr(node, "orelse", []):
                yield other
                yield from statements(other, types_too)
            continue
        yield node
        yield from statements(node, types_too)


def imports(module: str, types_too: bool = False) -> Iterator[tuple[str, int]]:
    """(dotted target, line) of every import; `from a import b` gives a.b, a module or a name in a."""
    tree = modules()[module]
    package = module if file_of(module).name == "__init__.py" else module.rpartition(".")[0]
    for node in statements(tree, types_too):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, *([base] if base else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value, node.lineno
