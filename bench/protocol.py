"""Publish, then delete: every request of a small night fails in every way there is, and every pair of runs meets at every request.

    uv run python bench/protocol.py

After each case the following nights must end in the archive of an undisturbed one, with nothing deleted that is not in it. The first case that does not
stops the run.

One thing may differ where late data meets a prune: the label of a day that is not spliced (`bookTicker` and the like), and only to the careful side, `partial`
where all data at once gives `complete`. Ids say what a spliced day lacks, whenever it is asked. Of the others only the raw segments say when somebody listened;
if some are gone by the time late ones come, the times they covered cannot be shown again, and what cannot be shown is not claimed. Its bytes are the same.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.protocol import PAIRS, cases, check_interleaving, check_merge, check_prune, merge_all, prune_all, requests_of, world


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=1, help="take only every so many cases")
    stride = parser.parse_args().stride
    with tempfile.TemporaryDirectory() as scratch:
        small = world(Path(scratch))
        begin = time.process_time()
        merges = requests_of(small.raw, lambda store: merge_all(store, small.scratch))
        prunes = requests_of(small.merged, prune_all)
        for name, asked, check in (("merge", merges, check_merge), ("prune", prunes, check_prune)):
            found = list(cases(asked, every_kind=True))[::stride]
            for number, fault in found:
                check(small, number, fault)
            print(f"{name}: {len(asked)} requests, {len(found)} faults, the same archive each time", flush=True)
        for first, other in PAIRS:
            places = range(1, len(merges if first == "merge" else prunes) + 1, stride)
            for at in places:
                check_interleaving(small, first, other, at)
            print(f"{first}, and in its middle {other}: at {len(places)} requests, harmless", flush=True)
        print(f"{time.process_time() - begin:.0f} s of CPU")


if __name__ == "__main__":
    main()
