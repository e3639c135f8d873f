"""A short set of bit_flips.py; the thousand are its command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_forty_flipped_bits_are_all_noticed_before_a_tensor_is_read():
    """In a process of its own: the engine is no other test's. DeepSpeed's own loading is asked eight times, too."""
    done = subprocess.run([sys.executable, "-W", "ignore", "bit_flips.py", "--flips", "40", "--seed", "5"], text=True,
                          cwd=Path(__file__).parent, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 flips in " in done.stdout and " s, 0 not noticed; in " in done.stdout
    assert "plain DeepSpeed, 8 flips" in done.stdout


def test_a_flip_that_nobody_looks_for_would_be_reported():
    script = ("import sys, bit_flips; from dstrain.runtime.checkpoint import folder; "
              "folder.first_fault = lambda *_: None; sys.argv = ['x', '--flips', '8']; sys.exit(bit_flips.main())")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], text=True, cwd=Path(__file__).parent,
                          capture_output=True, timeout=300)
    assert done.returncode == 1 and "MISSED" in done.stdout
