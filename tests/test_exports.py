"""What modules offer."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import twintape

NAMES = [module.name for module in pkgutil.walk_packages(twintape.__path__, "twintape.") if module.name != "twintape.__main__"]
HEAVY = ("numpy", "numba", "pyarrow", "polars", "pandas", "matplotlib", "duckdb", "aiohttp", "obstore", "picows", "typer")


def test_the_package_offers_the_archive_and_its_version():
    assert sorted(twintape.__all__) == ["__version__", "open"]
    assert twintape.open("memory://").__class__.__name__ == "Archive"


@pytest.mark.parametrize("name", NAMES)
def test_every_exported_name_exists_once(name):
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert [each for each in exported if not hasattr(module, each)] == []
    assert len(set(exported)) == len(exported)
    assert [each for each in exported if each.startswith("_")] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name.count(".") == 2])
def test_every_module_says_what_it_exports(name):
    assert importlib.import_module(name).__all__


def test_importing_the_package_loads_nothing_heavy():
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, twintape; print([name for name in {HEAVY} if name in sys.modules])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout == "[]\n"
