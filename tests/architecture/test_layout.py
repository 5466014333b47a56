"""The shape of the tree: what imports what, how large things are, and one trap of the folder's name."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [
    ROOT / "operator" / "tandem_api",
    ROOT / "operator" / "tandem_core",
    ROOT / "operator" / "tandem_operator",
    ROOT / "router" / "tandem_router",
    ROOT / "workers" / "tandem_worker",
    ROOT / "simulator" / "tandem_simulator",
    ROOT / "cli" / "tandem_cli",
    ROOT / "e2e" / "cluster",
    ROOT / "e2e" / "demo",
]
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "manager", "misc"}
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_MEDIAN_FUNCTION_LINES = 10


def functions_of(path: Path) -> list[tuple[str, int]]:
    """(name, lines without the docstring) of every function in a module."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            found.append((f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", lines))
    return found


def test_the_operator_folder_never_shadows_the_standard_library() -> None:
    """`operator/__init__.py` would break `import operator` for anyone who starts Python in the root."""
    assert not (ROOT / "operator" / "__init__.py").exists()
    done = subprocess.run(
        [sys.executable, "-c", "import operator; operator.itemgetter(0)"], cwd=ROOT, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_holds_one_idea(path: Path) -> None:
    """Long modules and grab-bag names are how ideas run together."""
    assert path.stem not in FORBIDDEN_NAMES
    assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES


def test_functions_are_short() -> None:
    """None longer than a screen, and the median under ten lines."""
    sizes = [(name, lines) for path in MODULES for name, lines in functions_of(path)]
    assert [row for row in sizes if row[1] > MAX_FUNCTION_LINES] == []
    lengths = sorted(lines for _, lines in sizes)
    assert lengths[len(lengths) // 2] <= MAX_MEDIAN_FUNCTION_LINES


def test_every_module_says_what_it_is_for() -> None:
    """A docstring at the top of each module that holds code."""
    texts = {path: path.read_text() for path in MODULES}
    assert [str(path) for path, text in texts.items() if text.strip() and not ast.get_docstring(ast.parse(text))] == []


def test_no_test_lives_beside_the_code() -> None:
    """Tests stand under tests/ and e2e/ only."""
    assert [str(p) for p in MODULES if p.name.startswith("test_")] == []
