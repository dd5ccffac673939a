"""Demand that the test file of each pure module covers every branch of that module, alone.

    uv run python tests/check_coverage.py [core.wire columns.book …]

A module that is covered only because other tests happen to pass through it is not tested. Compiled kernels are left out (pyproject.toml,
`exclude_also`): coverage cannot look inside machine code, their tests compare them with slow oracles instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("core", "columns")


def pure_modules() -> list[str]:
    """Return `core.wire`, …: every module of the pure rooms."""
    paths = [path for room in ROOMS for path in sorted((ROOT / "src" / "twintape" / room).glob("*.py"))]
    return [f"{path.parent.name}.{path.stem}" for path in paths if path.stem != "__init__"]


def check(module: str) -> str | None:
    """Run the module's own test file and return what is wrong, or None."""
    room, name = module.split(".")
    test_file = Path("tests") / room / f"test_{name}.py"
    if not (ROOT / test_file).is_file():
        return f"has no {test_file}"
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "coverage.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            test_file,
            f"--cov=twintape.{module}",
            "--cov-branch",
        ]
        ran = subprocess.run(
            [*command, f"--cov-report=json:{report}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"COVERAGE_FILE": str(Path(scratch) / "data")},
        )
        if ran.returncode:
            return f"its tests fail:\n{ran.stdout[-3000:]}{ran.stderr[-1000:]}"
        return missing(json.loads(report.read_text()), f"src/twintape/{room}/{name}.py")


def missing(report: dict, path: str) -> str | None:
    """Return which lines and branches of one file were not run, or None."""
    found = next((entry for name, entry in report["files"].items() if name.endswith(path)), None)
    if found is None:
        return "was not imported by its tests"
    lines = ", ".join(map(str, found["missing_lines"]))
    branches = ", ".join(f"{start}->{end if end > 0 else 'exit'}" for start, end in found["missing_branches"])
    if not lines and not branches:
        return None
    return f"{found['summary']['percent_covered']:.1f} %, lines never run: {lines or 'none'}; branches never taken: {branches or 'none'}"


def main(modules: list[str]) -> int:
    """Check the modules named, or all; 1 if any of them falls short."""
    short = 0
    for module in modules or pure_modules():
        wrong = check(module)
        short += wrong is not None
        print(f"{module}: {wrong or 'ok'}", flush=True)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
