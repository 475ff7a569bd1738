"""The import rule: a module imports only from modules that stand above it in this list, so nothing is circular."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import maprobe

PACKAGE = Path(maprobe.__file__).parent

FLOORS: list[tuple[str, list[str]]] = [
    (
        "0 data",
        [
            *("source", "errors", "sites", "readings", "verdicts", "cases", "facts", "edits", "materials", "recipes"),
            *("python_models", "registry", "references", "series", "sparsity", "progress", "hookspecs", ""),
        ],
    ),
    ("1 reading", ["reading"]),
    ("2 recipes", ["expectations", "architectures", "drawings", "corpora", "measurements", "interventions"]),
    ("3 thinking", ["costs", "planning", "modalities", "settling", "judging", "pairing", "courses", "trends"]),
    ("4 running", ["running", "training", "pruning", "selftest", "graphs"]),
    ("5 reporting", ["reporting"]),
    (
        "6 edges",
        [
            *("bars", "builtin", "checking", "session", "collecting", "telling", "selftesting", "distributing"),
            *("plugin", "prune_command", "commands"),
        ],
    ),
]
FLOOR = {name: floor for floor, (_, names) in enumerate(FLOORS) for name in names}
TORCH_FLOORS = {"running", "training", "measurements", "corpora", "checking", "pruning", "selftest", "graphs"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below ``maprobe``."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = path
    return names


def imports(path: Path, *, lazy: bool) -> list[tuple[str, int]]:
    """Modules imported at the top of a file; with ``lazy`` those imported inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[tuple[str, int]] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                base = child.module
                found.extend(
                    (
                        f"{base}.{alias.name}"
                        if (PACKAGE.parent / base.replace(".", "/") / f"{alias.name}.py").exists()
                        else base,
                        child.lineno,
                    )
                    for alias in child.names
                )
            visit(child)

    visit(tree)
    return found


def top(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


@pytest.mark.parametrize("module", modules())
def test_a_module_stands_on_a_floor(module: str) -> None:
    assert top(module) in FLOOR, f"add {top(module)!r} to the floors"


@pytest.mark.parametrize("module", [name for name in modules() if name])
def test_a_module_imports_only_from_its_floor_and_below(module: str) -> None:
    for imported, line in imports(modules()[module], lazy=True):
        if imported == "maprobe" or imported.startswith("maprobe."):
            other = top(imported.removeprefix("maprobe").removeprefix("."))
            assert FLOOR[other] <= FLOOR[top(module)], f"{modules()[module]}:{line} imports {imported} from above"


def test_no_two_modules_import_one_another() -> None:
    graph = {
        name: {
            imported.removeprefix("maprobe.")
            for imported, _ in imports(path, lazy=False)
            if imported.startswith("maprobe.")
        }
        for name, path in modules().items()
        if name
    }
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle of imports: {' -> '.join((*trail, name))}"
        if name in done:
            return
        for other in graph.get(name, ()):
            walk(other, (*trail, name))
        done.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize("module", modules())
def test_only_folds_and_the_running_floor_import_torch(module: str) -> None:
    for imported, line in imports(modules()[module], lazy=True):
        if top(imported) in ("torch", "transformers"):
            assert top(module) in TORCH_FLOORS, f"{modules()[module]}:{line} imports {imported}"


def test_loading_the_plugin_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, maprobe.plugin; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_validating_probe_files_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from maprobe.commands import main; main(['check', 'probes']); "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    root = PACKAGE.parent
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert found.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", [name for name, path in modules().items() if path.name != "__init__.py"])
def test_a_module_is_small_enough_to_be_read_at_one_sitting(module: str) -> None:
    assert len(modules()[module].read_text(encoding="utf-8").splitlines()) <= 350
