"""The fleet's queue on a virtual clock, the fleet on three SSH servers, and what training in processes here costs.

`python -m benchmarks engine` measures them; `python -m benchmarks.bench_engine` prints the queue's time, memory and
wall time against units and hosts as one table.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import Measurement

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fakes.fleet import Fleet, FleetHost, FleetResult

from jade_model.core.config import ModelConfig
from jade_model.data.sample import sample_windows
from tasks.core.layout import RunLayout
from tasks.execution.local import LocalExecutor
from tasks.experiments.plan import Plan, write_job
from tasks.settings.environment import available_cores
from tests.helpers.three_hosts import train_on_three_hosts

UNIT_S = 300.0
LARGEST = (10_000, 100)
SIZES = tuple((units, hosts) for units in (1_000, 3_000, 10_000) for hosts in (10, 30, 100))
MAX_S_A_UNIT = 2e-3
TARGET_UNIT_S = 10.0
NUM_TIMED = 20
MAX_OVERHEAD = 1.05
WAITING_UNIT_S = 3.0
MAX_OVER_BEST = 1.3


def fleet(num_units: int, num_hosts: int) -> Fleet:
    """Hosts of three speeds, with failures and preemption."""
    hosts = [FleetHost(f"h{number}", unit_s=UNIT_S * (0.5, 1.0, 3.0)[number % 3]) for number in range(num_hosts)]
    return Fleet(hosts, num_units=num_units, seed=0)


def checked(num_units: int, num_hosts: int) -> FleetResult:
    """Run a fleet; every unit ends exactly once."""
    simulated = fleet(num_units, num_hosts)
    result = simulated.run()
    assert sorted(event.run_key for event in result.ended) == sorted(simulated.units)
    assert not simulated.queue.hosts
    return result


def peak_mib(num_units: int, num_hosts: int) -> float:
    """Most memory of a fleet and its queue at once."""
    tracemalloc.start()
    fleet(num_units, num_hosts).run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def measure() -> list[Measurement]:
    result = checked(*LARGEST)
    done = sum(event.kind == "done" for event in result.ended)
    queue = Measurement(
        f"queue, a unit of {LARGEST[0]} on {LARGEST[1]} hosts",
        result.queue_s / LARGEST[0],
        max_s=MAX_S_A_UNIT,
        note=f"{done} done, {result.num_lost} losses, {result.num_preempted} preemptions",
    )
    return [queue, _overhead(), _three_hosts()]


def _three_hosts() -> Measurement:
    """Three SSH servers, one ten times slower, one killed half-way, against what those that were alive could do."""
    plan = Plan({"a": "jade_soft_span"}, 1, seeds=16, folds=3, split="grouped", ensemble=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["JADE_STATE_DIR"] = str(folder / "state")
        (folder / "run").mkdir()
        job = write_job(RunLayout(folder / "run"), [sample_windows(num_bases=12)], plan)
        found = train_on_three_hosts(job, folder / "run", folder, WAITING_UNIT_S)
    assert all(item.kind == "done" for item in found.outcomes), found
    return Measurement(
        f"the fleet, {len(found.outcomes)} units of {WAITING_UNIT_S:g} s on 3 SSH hosts",
        found.seconds[-1],
        found.best_possible_s(WAITING_UNIT_S),
        peer="the best possible: units take all the time, and each host works while it is alive",
        max_overhead=MAX_OVER_BEST,
        note=f"one ten times slower, one killed after {found.died_s:.0f} s",
    )


def _overhead() -> Measurement:
    """Wall time of the executor against what its trainings took on as many cores."""
    cores = available_cores()
    windows = sample_windows(num_bases=40)
    plan = Plan({"a": "jade_soft_span"}, 1, seeds=4, folds=NUM_TIMED // 4, split="grouped", ensemble=1)
    # As many epochs as make a unit of some ten seconds here.
    probe = replace(plan.recipe_of("a"), model=ModelConfig(hidden_size=32))
    short = replace(plan, arms={"a": probe}, epochs=25, seeds=1, folds=2)
    seconds_an_epoch = sum(_wall(windows, short, workers=1)[1]) / (2 * 25)
    epochs = max(2, round(TARGET_UNIT_S / max(seconds_an_epoch, 1e-3)))
    wall_s, units_s = _wall(windows, replace(plan, arms={"a": probe}, epochs=epochs), workers=cores)
    ends_s = [0.0] * cores
    for unit_s in units_s:
        ends_s[ends_s.index(min(ends_s))] += unit_s
    return Measurement(
        f"processes here, {NUM_TIMED} units of {sum(units_s) / NUM_TIMED:.0f} s on {cores} cores",
        wall_s,
        max(ends_s),
        peer="the trainings' own time, each on the core that is free first",
        max_overhead=MAX_OVERHEAD,
        note="starting the processes included",
    )


def _wall(windows: object, plan: Plan, *, workers: int) -> tuple[float, list[float]]:
    """Wall time of the executor, and what each training took, in the order in which they were begun."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job = write_job(RunLayout(folder), [windows], plan)  # type: ignore[list-item]
        executor = LocalExecutor(folder, job, workers=workers)
        began = time.perf_counter()
        outcomes = [event for event in executor.run(job.trainings) if event.kind in {"done", "failed"}]
        wall_s = time.perf_counter() - began
    took_s = {item.run_key: item.data["seconds"] for item in outcomes}
    return wall_s, [took_s[training.run_key] for training in job.trainings]


def main() -> None:
    print("| units | hosts | queue, µs of CPU a unit | peak, MiB | hours, virtual | at best | lost |")
    print("|---|---|---|---|---|---|---|")
    cost_us: dict[int, list[tuple[int, float]]] = {}
    for num_units, num_hosts in SIZES:
        result = checked(num_units, num_hosts)
        rate = sum(1 / (UNIT_S * (0.5, 1.0, 3.0)[number % 3]) for number in range(num_hosts))
        each_us = 1e6 * result.queue_s / num_units
        cost_us.setdefault(num_hosts, []).append((num_units, each_us))
        best_s = num_units / rate
        print(
            f"| {num_units:,} | {num_hosts:,} | {each_us:.0f} | {peak_mib(num_units, num_hosts):.1f} | "
            f"{result.seconds / 3600:.2f} | {best_s / 3600:.2f} | "
            f"{result.num_lost + result.num_preempted} |",
            flush=True,
        )
    draw(cost_us, Path(__file__).with_name("engine.png"))


def draw(cost_us: dict[int, list[tuple[int, float]]], path: Path) -> None:
    """Draw the queue's own time a unit against units, one line a number of hosts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for num_hosts, points in cost_us.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{num_hosts} hosts")
    axes.axhline(1e6 * MAX_S_A_UNIT, color="grey", ls="--", lw=1)
    axes.set(xscale="log", yscale="log", xlabel="units", ylabel="queue's own time, µs a unit (limit dashed)")
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
