"""What is written about the project is there and true."""

import ast
import doctest
import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer

from twintape.cli import app

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def module_names() -> list[str]:
    paths = (path.relative_to(SOURCE).with_suffix("") for path in sorted(SOURCE.rglob("*.py")))
    return [".".join(path.parts[:-1] if path.name == "__init__" else path.parts) for path in paths]


@pytest.mark.parametrize("name", module_names())
def test_a_module_says_what_it_is_for_and_its_examples_are_true(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert module.__doc__.strip().partition("\n")[0].endswith((".", ":"))
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_there_are_examples_to_try():
    finder = doctest.DocTestFinder(exclude_empty=True)
    assert sum(bool(test.examples) for test in finder.find(importlib.import_module("twintape.core.wire"))) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_in_the_readme_and_helps(command):
    assert re.search(rf"\btwintape {re.escape(command)}\b", README)


def test_the_readme_names_no_command_that_is_not_there():
    named = set(re.findall(r"^\s*(?:\$ )?(?:uv run )?twintape ([a-z][a-z-]*)", README, re.MULTILINE))
    assert named - set(COMMANDS) == set()


def test_the_readme_s_test_command_is_the_one_that_continuous_integration_calls():
    assert "uv run pytest" in README
    assert re.search(r"^step uv run pytest\b(?! -)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_files_that_the_texts_point_to_exist():
    texts = [path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if path.name != "LICENSE"]
    links = [(path, target) for path in texts for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())]
    broken = [(path.name, target) for path, target in links if "://" not in target and not (path.parent / target).exists()]
    assert broken == []


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module = ast.parse((SOURCE / "twintape" / "__init__.py").read_text())
    values = {
        node.targets[0].id: node.value
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(values["__version__"]) == project["version"]


def test_the_licence_is_the_one_the_project_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()


def test_the_check_script_is_valid_and_stops_at_the_first_failure():
    script = ROOT / ".ci" / "run"
    assert "set -euo pipefail" in script.read_text()
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert script.stat().st_mode & 0o111
