"""Freed memory is used again."""

import gc
import os
import subprocess
import sys

import pytest

from twintape.io import allocator
from twintape.io.allocator import keep_freed_memory

PIECES = """
import resource
from twintape.io.allocator import keep_freed_memory
kept = {keep} and keep_freed_memory()
for _ in range(20):
    pieces = [bytearray(1 << 20) for _ in range(8)]
    del pieces
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    pieces = [bytearray(1 << 20) for _ in range(8)]
    del pieces
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep):
    ran = subprocess.run([sys.executable, "-c", PIECES.format(keep=keep)], check=True, capture_output=True, text=True)
    kept, count = ran.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has such options")
def test_pieces_of_a_megabyte_are_not_fetched_from_the_system_again():
    kept, few = faults(keep=True)
    _, many = faults(keep=False)
    assert kept
    assert few * 4 < many


def test_arrow_takes_its_memory_from_the_same_allocator():
    program = "import pyarrow as pa; from twintape.io.allocator import keep_freed_memory as keep; keep(); print(pa.default_memory_pool().backend_name)"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "system"


def numpy_asks_for_huge_pages(surroundings, program="from twintape.io.allocator import use_small_pages; use_small_pages()"):
    program = f"{program}; import numpy; print(numpy._core.multiarray._get_madvise_hugepage())"
    kept = {name: value for name, value in os.environ.items() if name != "NUMPY_MADVISE_HUGEPAGE"}
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=kept | surroundings)
    return ran.stdout.strip()


def test_numpy_asks_for_no_huge_pages_unless_it_is_told_to():
    assert numpy_asks_for_huge_pages({}) == "False"
    assert numpy_asks_for_huge_pages({"NUMPY_MADVISE_HUGEPAGE": "1"}) == "True"


def test_what_a_merge_needs_to_choose_its_pages_imports_no_numpy():
    program = "import sys, twintape.cli.night; assert 'numpy' not in sys.modules; from twintape.io.allocator import use_small_pages; use_small_pages()"
    assert numpy_asks_for_huge_pages({}, program) == "False"


def test_a_library_that_cannot_be_told_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _name: object())
    assert keep_freed_memory() is False


def test_what_is_there_when_collections_become_rare_is_never_walked_again():
    before = gc.get_threshold()
    try:
        allocator.collect_rarely()
        assert gc.get_threshold()[0] == allocator.COLLECTION_OBJECTS
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
