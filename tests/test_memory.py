"""Tensors lie in large pages and in memory kept, or a training spends its time on page faults."""

import platform
import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from langmerge import allocator, jobs

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FILLED = """
import resource
import langmerge, torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):
    torch.empty(2**22).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    not PAGES.is_file() or "[never]" in PAGES.read_text(), reason="the kernel has no large pages"
)
def test_filling_large_tensors_takes_few_page_faults():
    run = subprocess.run([sys.executable, "-c", FILLED], capture_output=True, text=True, check=True)
    small_pages = 16 * 2**24 // 4096
    assert int(run.stdout) < small_pages / 4


def fewest_faults():
    """Page faults of the fill that took fewest; the first fills may leave holes that do not fit."""
    counts = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
    for _ in range(32):
        torch.empty(2**24).fill_(1.0)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return min(after - before for before, after in pairwise(counts))


KEEPING = """
import sys
sys.path.insert(0, sys.argv[1])
import langmerge, test_memory
from langmerge import allocator
if sys.argv[2] == "keep":
    assert allocator.keep_freed()
print(test_memory.fewest_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("what", ["keep", "give back"])
def test_memory_that_is_kept_is_not_asked_for_again(what):
    command = [sys.executable, "-c", KEEPING, str(Path(__file__).parent), what]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (int(run.stdout) < 16) == (what == "keep")  # one tensor is 32 large pages


def fill(path):
    path.write_text(str(fewest_faults()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_processes_that_are_there_for_jobs_keep_their_memory(tmp_path):
    paths = [tmp_path / "one", tmp_path / "other"]
    jobs.run("fill", [(fill, path) for path in paths], processes=2, quiet=True)
    assert all(int(path.read_text()) < 16 for path in paths)


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert allocator.keep_freed() is False
