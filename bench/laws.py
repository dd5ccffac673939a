"""The laws of merging on many more cases than the tests have time for; prints the numbers of the cases that break one.

    uv run python bench/laws.py --cases 10000
    uv run python bench/laws.py --cases 500 --capture usdm_2021-04-17_cf_4sym
    uv run python bench/laws.py --first 1234 --cases 1        # one case again

A case is checked as tests/support/laws.py describes: gaps exactly the ids that no line has, the true book behind every event, the same bytes in any
order and merged again, no gap widened by one more line, the cheapest path. About a tenth of a second each.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support import laws
from support.corpus import load


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--capture", help="pieces of this recording of ../shared/corpus instead of made-up markets")
    options = parser.parse_args()
    tapes = [laws.Tape(recording) for recording in load(options.capture)] if options.capture else []
    start, broken = time.process_time(), 0
    for number in range(options.first, options.first + options.cases):
        try:
            laws.check(number, tapes)
        except AssertionError as error:
            broken += 1
            print(str(error)[:500], flush=True)
    seconds = time.process_time() - start
    print(f"{options.cases} cases, {broken} broken, {seconds:.0f} s of one core")
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
