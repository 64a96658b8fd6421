"""The shape of the code: sizes, public names, what serving imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "fedpredict"
MODULES = sorted(path for path in ROOT.rglob("*.py") if not path.stem.endswith("_pb2"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_longer_than_60_lines(path: Path) -> None:
    too_long = [node.name for node in functions(path) if (node.end_lineno or 0) - node.lineno + 1 > 60]
    assert too_long == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_protocol_has_more_than_five_methods(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases):
            methods = [
                child
                for child in node.body
                if isinstance(child, Function)
                and not any(isinstance(d, ast.Name) and d.id == "property" for d in child.decorator_list)
            ]
            assert len(methods) <= 5, node.name


def test_serving_needs_no_training_library_and_no_warehouse_driver_that_it_does_not_use() -> None:
    code = """
import sys
import fedpredict.participant.server, fedpredict.initiator.server, fedpredict.client
banned = {"sklearn", "scipy", "joblib", "pandas", "matplotlib", "pyhive", "thrift", "xgboost", "lightgbm"}
print(sorted(banned & {name.split(".")[0] for name in sys.modules}))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert found.stdout.strip() == "[]"


def test_a_participant_that_computes_no_view_imports_no_parser_engine_or_database() -> None:
    code = """
import sys
import fedpredict.participant.server, fedpredict.initiator.own
banned = {"sqlglot", "duckdb", "sqlalchemy", "starlette", "uvicorn"}
print(sorted(banned & {name.split(".")[0] for name in sys.modules}))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert found.stdout.strip() == "[]"


READS_A_FILE = {"child", "containers", "joblib_file", "opcodes", "sandbox", "unpickle"} | {
    f"{name}_file" for name in ("lightgbm", "safetensors", "sklearn", "torch", "xgboost")
}
"""Modules of `convert` that see the bytes of a model file."""


def imports_of(path: Path) -> set[str]:
    """The modules of `convert` that a module imports, by their last name."""
    found = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    modules = [node.module or "" for node in found]
    return {module.rpartition(".")[2] for module in modules if module.startswith("fedpredict.convert.")}


def test_the_bytes_of_a_model_file_are_seen_by_the_confined_process_alone() -> None:
    """Whatever a command asks of a file goes through `read`, and from there to the process that `sandbox` starts."""
    outside = [path for path in MODULES if path.parent != ROOT / "convert"]
    assert {str(path.relative_to(ROOT)) for path in outside if imports_of(path) & READS_A_FILE} == set()
    inside = {path.stem: imports_of(path) for path in MODULES if path.parent == ROOT / "convert"}
    # only the process itself imports what reads, and nothing imports the process
    assert [name for name, imported in inside.items() if "child" in imported] == []
    assert [name for name, imported in inside.items() if "sandbox" in imported] == ["read"]
    reached, todo = set(), ["read"]
    while todo:
        reached.add(module := todo.pop())
        todo += inside[module] - reached
    assert reached & (READS_A_FILE - {"sandbox"}) == set()
