"""Large tensors lie in large pages, or a training spends its time on page faults."""

import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FAULTS = """
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
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    small_pages = 16 * 2**24 // 4096
    assert int(run.stdout) < small_pages / 4
