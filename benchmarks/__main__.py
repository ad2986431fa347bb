"""`python -m benchmarks [NAME ...]`: measure ours beside its peers and print one table.

A name selects `bench_<name>.py`; without one all run that have a `measure`. Exits with 1 if a target is
missed, with 2 for a name that there is not. One thread a process.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path

from benchmarks.harness import Measurement

HEADERS = ("what", "ours", "peer", "ratio", "target", "met", "peer is; note")


def main(selected: list[str]) -> int:
    """Run the chosen benchmarks; 0 if every target is met, 1 if not, 2 for a name that there is not."""
    names = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    unknown = sorted(set(selected) - set(names))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; choose from: {', '.join(names)}", file=sys.stderr)
        return 2
    print(machine())
    measurements: list[Measurement] = []
    for name in selected or names:
        measure = getattr(importlib.import_module(f"benchmarks.bench_{name}"), "measure", None)
        if measure is not None:
            print(f"{name} ...", file=sys.stderr, flush=True)
            measurements += measure()
        elif selected:
            print(f"bench_{name}.py has no `measure`; run it by itself", file=sys.stderr)
            return 2
    print(table(measurements))
    missed = [each.name for each in measurements if each.is_met is False]
    print(f"missed: {', '.join(missed)}" if missed else "every target met")
    return 1 if missed else 0


def machine() -> str:
    """Processor, cores, threads and versions, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    numpy, torch = importlib.import_module("numpy"), importlib.import_module("torch")
    return (
        f"{processor_name()}, {cores} cores, load {os.getloadavg()[0]:.1f} before; "
        f"{torch.get_num_threads()} thread(s) a process; CPU time, the shortest of several turns; "
        f"{torch.backends.cpu.get_cpu_capability()}, Python {platform.python_version()}, numpy {numpy.__version__}, "
        f"torch {torch.__version__}"
    )


def processor_name() -> str:
    """The processor's own name where Linux tells it, else the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def table(measurements: list[Measurement]) -> str:
    """Lay the measurements out as a Markdown table."""
    rows = [HEADERS, *(cells(each) for each in measurements)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def cells(measurement: Measurement) -> tuple[str, ...]:
    """One row's cells, in the order of HEADERS."""
    targets = []
    if measurement.target_ratio is not None:
        targets.append(f">= {measurement.target_ratio:g}x")
    if measurement.max_overhead is not None:
        targets.append(f"<= {measurement.max_overhead:g} of peer")
    if measurement.max_s is not None:
        targets.append(f"<= {duration(measurement.max_s)}")
    ratio = ""
    if measurement.ratio is not None:
        overhead = 1 / measurement.ratio
        ratio = f"{measurement.ratio:.1f}x" if measurement.max_overhead is None else f"{overhead:.2f} of peer"
    return (
        measurement.name,
        duration(measurement.ours_s),
        "" if measurement.peer_s is None else duration(measurement.peer_s),
        ratio,
        ", ".join(targets),
        {True: "yes", False: "NO", None: ""}[measurement.is_met],
        "; ".join(part for part in (measurement.peer, measurement.note) if part),
    )


def duration(seconds: float) -> str:
    """Seconds to three digits in a unit that suits them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


if __name__ == "__main__":
    # Read by OpenMP when torch loads, which is later: on a shared machine threads that spin stall each other.
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    raise SystemExit(main(sys.argv[1:]))
