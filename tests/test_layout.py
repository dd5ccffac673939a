"""What the source tree promises, read from its text."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "twintape"
MODULES = sorted(SOURCE.rglob("*.py"))
PURE = [path for room in ("core", "columns") for path in sorted((SOURCE / room).glob("*.py"))]

MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
CORE_MAY_IMPORT = {"msgspec", "backports", "compression", "twintape"}
COLUMNS_MAY_IMPORT = CORE_MAY_IMPORT | {"numba", "numpy", "pyarrow", "typing_extensions"}
MAY_PRINT = {"io/exchange.py"}  # run as a process it says in one line of JSON where it listens
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "breakpoint"}
IMPURE_METHODS = {"now", "today", "utcnow"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), name_of(path))


def written_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, text: list[str]) -> int:
    """Return how many lines of code a function's body has: no docstring, no comments, no blank lines."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    lines = text[body[0].lineno - 1 : body[-1].end_lineno]
    return sum(1 for line in lines if line.strip() and not line.lstrip().startswith("#"))


def called(tree: ast.Module) -> set[str]:
    """Return the names of what a module calls: functions by their name, methods with a dot before it."""
    functions = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = {function.id for function in functions if isinstance(function, ast.Name)}
    return names | {f".{function.attr}" for function in functions if isinstance(function, ast.Attribute)}


def tracked_texts() -> list[Path]:
    """Return the project's text files: those git tracks or would track; without git, the obvious ones."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode == 0:
        paths = [ROOT / line for line in listing.stdout.splitlines()]
    else:
        paths = [ROOT / "pyproject.toml", *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.py"), *MODULES]
    return [path for path in paths if path.is_file() and path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".sh", ""}]


def test_the_tree_is_where_these_tests_look():
    assert {name_of(path) for path in MODULES} >= {
        "src/twintape/core/wire.py",
        "src/twintape/columns/schema.py",
        "src/twintape/io/ports.py",
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_fits_into_one_head(path):
    assert len(path.read_text().splitlines()) <= MODULE_LINES_MAX


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_fits_onto_one_screen(path):
    text = path.read_text().splitlines()
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = {function.name: written_lines(function, text) for function in functions}
    assert {name: size for name, size in sizes.items() if size > FUNCTION_LINES_MAX} == {}


@pytest.mark.parametrize("path", [path for path in PURE if path.name != "__init__.py"], ids=name_of)
def test_a_pure_module_has_a_test_file_of_its_own(path):
    assert (ROOT / "tests" / path.parent.name / f"test_{path.name}").is_file()


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_a_pure_module_imports_no_more_than_its_room_allows(path):
    allowed = (CORE_MAY_IMPORT if path.parent.name == "core" else COLUMNS_MAY_IMPORT) | sys.stdlib_module_names
    imports = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
    assert {name for name in names if name.partition(".")[0] not in allowed} == set()


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_a_pure_module_opens_nothing_and_reads_no_clock(path):
    calls = called(tree_of(path))
    assert calls & IMPURE_CALLS == set()
    assert {f".{name}" for name in IMPURE_METHODS} & calls == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_commands_print(path):
    inside = path.relative_to(SOURCE).as_posix()
    if not inside.startswith("cli/") and inside not in MAY_PRINT:
        assert "print" not in called(tree_of(path))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_error_is_swallowed(path):
    handlers = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ExceptHandler)]
    assert [handler.lineno for handler in handlers if handler.type is None] == []


def test_nothing_is_left_for_later():
    later = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME)\b")
    assert {name_of(path) for path in tracked_texts() if later.search(path.read_text(errors="replace"))} == set()


def test_no_file_names_the_host_of_a_package_registry():
    hosts = re.compile(
        "|".join(
            re.escape(host)
            for host in ("py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "crates" + ".io", "ana" + "conda.org")
        )
    )
    assert {name_of(path) for path in tracked_texts() if hosts.search(path.read_text(errors="replace"))} == set()


def test_imports_go_the_way_the_contracts_say():
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout
