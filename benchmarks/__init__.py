"""Each `bench_*.py` measures ours beside a peer, in one run."""

import sys
from pathlib import Path

# What tests/fakes imports, as the tests find it.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
