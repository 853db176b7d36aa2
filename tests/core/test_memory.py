"""Peak memory against allocations of a known size, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import json
from whorl.core.memory import peak_resident_bytes, restart_peak
MIB = 2**20
before = peak_resident_bytes()
block = bytearray(b"x") * (200 * MIB)
with_block = peak_resident_bytes()
del block
kept = peak_resident_bytes()
restart_peak()
print(json.dumps([n // MIB for n in (before, with_block, kept, peak_resident_bytes())]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the mark can be reset on Linux only")
def test_the_mark_rises_stays_and_starts_anew() -> None:
    ballast = bytearray(b"x") * (300 * 2**20)  # of the parent: must not be counted
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, with_block, kept, anew = json.loads(done.stdout)
    assert before < 150
    assert 190 <= with_block - before <= 230
    assert abs(kept - with_block) <= 2  # the kernel counts in batches of pages
    assert anew <= before + 20
    assert len(ballast) > 0
