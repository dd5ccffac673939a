"""Lets the hunters loose on mutants, each in a process of its own with a module or two patched as they are imported.

uv run python tests/mutations/hunt.py                       # all of them: ten minutes of one core
uv run python tests/mutations/hunt.py --seeds 30 --only "failed fsync"
"""

import argparse
import importlib.abc
import importlib.machinery
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEEDS = 12
CAUGHT = "caught"


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from other text than its file's, past every cache of compiled code."""

    def __init__(self, name, path, source):
        super().__init__(name, str(path))
        self._source = source

    def get_code(self, fullname):
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant):
        self._sources = mutant.sources()

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in self._sources:
            return None
        file, source = self._sources[fullname]
        return importlib.machinery.ModuleSpec(fullname, _Loader(fullname, file, source), origin=str(file))


def by_power_loss(seed, mutant):
    """Return what the power-loss test of the spool says of a seed, or None if it finds nothing."""
    sys.path.insert(0, str(HERE.parents[1] / "bench"))
    import power_loss

    try:
        power_loss.crash_everywhere(seed, every=5)
    except Exception as error:  # noqa: BLE001 - whatever it dies of, it has noticed
        return f"{type(error).__name__}: {error}"
    return None


def by_simulation(seed, mutant):
    """Return what the simulation says of a seed, or None if it finds nothing."""
    from twintape.simulation.faults import parse_kinds
    from twintape.simulation.simulation import simulate

    return simulate(seed, days=mutant.days, kinds=parse_kinds(mutant.faults)).violation


def hunt(mutant, seeds):
    """Return seed and words of the first hunter that notices, or None."""
    from mutants import POWER

    sys.meta_path.insert(0, _Finder(mutant))
    hunter = by_power_loss if mutant.faults == POWER else by_simulation
    for seed in seeds:
        words = hunter(seed, mutant)
        if words is not None:
            return seed, words
    return None


def hunt_apart(mutant, seeds):
    """Hunt in a process of its own."""
    command = [sys.executable, str(HERE / "hunt.py"), "--one", mutant.name, "--first", str(seeds[0]), "--seeds", str(len(seeds))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    sys.path.insert(0, str(HERE))
    from mutants import MUTANTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first", type=int, help="the first seed; by default where the list says it is found")
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        (mutant,) = [mutant for mutant in MUTANTS if mutant.name == arguments.one]
        print(json.dumps(hunt(mutant, range(arguments.first, arguments.first + arguments.seeds))))
        return
    escaped = 0
    for mutant in MUTANTS:
        if arguments.only in mutant.name:
            first = mutant.seed if arguments.first is None else arguments.first
            found = hunt_apart(mutant, range(first, first + arguments.seeds))
            escaped += found is None
            print(
                f"{'ESCAPED' if found is None else f'seed {found[0]}'}  {mutant.name}\n    {found[1][:220] if found else ''}",
                flush=True,
            )
    print(f"{escaped} escaped")
    raise SystemExit(bool(escaped))


if __name__ == "__main__":
    main()
