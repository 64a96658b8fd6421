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
