"""The queue of the fleet, without hosts: what holds whatever happens, and a fleet on a virtual clock."""

from __future__ import annotations

import math

import pytest
from fakes.fleet import Fleet, FleetHost
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.execution.queue import Next, QueueRules, UnitQueue

UNITS = ("a", "b", "c", "d", "e", "f")


def test_a_host_gets_as_many_units_as_it_has_places_and_then_as_many_as_fill_a_batch() -> None:
    queue = UnitQueue([str(number) for number in range(100)], QueueRules(batch_s=40, first_guess_s=10))
    queue.join("h", 0.0, places=2)
    first = queue.take("h", 0.0).batch
    assert first == ("0", "1")
    for number, unit in enumerate(first):
        queue.finished("h", unit, 10.0 * (number + 1))
    assert len(queue.take("h", 20.0).batch) == 4


def test_a_lost_hosts_units_go_to_the_others_first() -> None:
    queue = UnitQueue(UNITS)
    queue.join("good", 0.0)
    queue.join("bad", 0.0, places=2)
    assert queue.take("bad", 0.0).batch == ("a", "b")
    assert queue.take("good", 0.0).batch == ("c",)
    queue.lost("bad", 1.0, "out of reach")
    queue.finished("good", "c", 2.0)
    assert queue.take("good", 2.0).batch[0] == "a"
    paused = queue.take("bad", 2.0)
    assert paused.batch == ()
    assert paused.wait_s == pytest.approx(QueueRules().pause_s - 1.0)


def test_pauses_double_and_end_in_quarantine_and_a_success_forgives() -> None:
    rules = QueueRules(pause_s=4, max_host_failures=3, max_losses=100)
    queue = UnitQueue(UNITS, rules)
    queue.join("other", 0.0)
    queue.join("h", 0.0)
    now = 0.0
    for pause_s in (4, 8):
        assert queue.take("h", now).batch
        queue.lost("h", now, "no")
        assert queue.take("h", now).wait_s == pause_s
        now += pause_s
    (unit,) = queue.take("h", now).batch
    queue.finished("h", unit, now + 1)
    queue.lost("h", now + 1, "no")
    assert queue.take("h", now + 1).wait_s == 4
    for _ in range(2):
        now += 100
        queue.lost("h", now, "no")
    assert queue.take("h", now + 1000) == Next()


def test_what_fails_by_its_own_fault_is_not_tried_again_and_the_rest_a_bounded_number_of_times() -> None:
    queue = UnitQueue(["own", "other"], QueueRules(max_attempts=2))
    queue.join("h", 0.0, places=2)
    queue.take("h", 0.0)
    queue.failed("h", "own", "diverged", is_own_fault=True)
    queue.failed("h", "other", "out of memory", is_own_fault=False)
    assert queue.take("h", 1.0).batch == ("other",)
    queue.failed("h", "other", "out of memory", is_own_fault=False)
    ended = {event.run_key: event.data for event in queue.drain()}
    assert (ended["own"]["is_own_fault"], ended["own"]["attempts"]) == (True, 1)
    assert (ended["other"]["is_own_fault"], ended["other"]["attempts"]) == (False, 2)
    assert queue.take("h", 2.0) == Next()


def test_a_unit_that_takes_hosts_down_is_given_up() -> None:
    queue = UnitQueue(["killer"], QueueRules(max_losses=2))
    for name in ("x", "y", "z"):
        queue.join(name, 0.0)
    for name in ("x", "y"):
        assert queue.take(name, 0.0).batch == ("killer",)
        queue.lost(name, 0.0, "gone")
    (ended,) = queue.drain()
    assert ended.data["reason"] == "y: gone"


def test_an_idle_host_copies_the_straggler_and_the_first_result_counts() -> None:
    queue = UnitQueue(["a", "b", "c"], QueueRules(batch_s=1, first_guess_s=10))
    queue.join("fast", 0.0)
    queue.join("slow", 0.0)
    assert queue.take("slow", 0.0).batch == ("a",)
    assert queue.take("fast", 0.0).batch == ("b",)
    queue.finished("fast", "b", 1.0)
    assert queue.take("fast", 1.0).batch == ("c",)
    queue.finished("fast", "c", 2.0)
    assert queue.take("fast", 2.0).batch == ("a",)
    assert queue.finished("fast", "a", 3.0)
    assert not queue.is_open("a")
    assert not queue.finished("slow", "a", 10.0)
    assert [event.where for event in queue.drain()] == ["fast", "fast", "fast"]


def test_a_failed_copy_does_not_end_what_still_runs_elsewhere() -> None:
    queue = UnitQueue(["a"], QueueRules(max_attempts=1, first_guess_s=1))
    queue.join("slow", 0.0)
    queue.join("fast", 0.0)
    queue.take("slow", 0.0)
    assert queue.take("fast", 50.0).batch == ("a",)
    queue.failed("fast", "a", "no", is_own_fault=False)
    assert queue.num_open == 1
    assert queue.finished("slow", "a", 60.0)


def test_what_a_silent_host_has_goes_to_others_and_counts_if_it_comes_first_after_all() -> None:
    queue = UnitQueue(["a", "b", "c"])
    queue.join("silent", 0.0, places=2)
    queue.join("other", 0.0)
    assert queue.take("silent", 0.0).batch == ("a", "b")
    queue.drop("silent")
    assert queue.take("other", 10.0).batch == ("a",)
    assert queue.finished("silent", "a", 11.0)
    assert not queue.finished("other", "a", 12.0)
    assert queue.finished("silent", "b", 13.0)
    assert queue.take("other", 13.0).batch == ("c",)


def test_a_slow_hosts_copy_does_not_keep_a_quick_one_from_what_a_silent_host_has() -> None:
    queue = UnitQueue(["a", "b", "c"], QueueRules(batch_s=1, first_guess_s=4))
    for name in ("silent", "slow", "quick"):
        queue.join(name, 0.0)
    assert [queue.take(name, 0.0).batch for name in ("silent", "slow", "quick")] == [("a",), ("b",), ("c",)]
    queue.finished("quick", "c", 4.0)
    queue.finished("slow", "b", 40.0)
    assert queue.take("slow", 41.0).batch == ("a",) or queue.take("slow", 60.0).batch == ("a",)
    assert queue.take("quick", 61.0).batch == ("a",)
    assert queue.finished("quick", "a", 65.0)
    assert not queue.is_open("a")


def test_a_late_result_of_a_host_that_was_given_up_counts_once() -> None:
    queue = UnitQueue(["a", "b"])
    queue.join("h", 0.0)
    queue.join("g", 0.0)
    queue.take("h", 0.0)
    queue.lost("h", 1.0, "silent")
    assert queue.finished("h", "a", 2.0)
    assert queue.take("g", 2.0).batch == ("b",)
    queue.failed("h", "b", "stale news", is_own_fault=False)
    assert queue.finished("g", "b", 4.0)
    assert [event.kind for event in queue.drain()] == ["done", "done"]


def test_without_any_host_left_what_is_open_fails_unless_hosts_are_expected() -> None:
    queue = UnitQueue(["a"])
    queue.num_expected = 1
    queue.join("h", 0.0)
    queue.take("h", 0.0)
    queue.leave("h", "preempted")
    assert queue.drain() == []
    queue.num_expected = 0
    queue.give_up_if_alone()
    (ended,) = queue.drain()
    assert ended.data["reason"] == "no host is left that could do it (last: h: preempted)"


def test_without_a_batch_s_one_host_gets_all_that_is_left() -> None:
    queue = UnitQueue(UNITS, QueueRules(batch_s=math.inf))
    queue.join("h", 0.0)
    assert queue.take("h", 0.0).batch == UNITS


def test_what_a_host_has_from_before_is_its_batch_as_far_as_it_is_open() -> None:
    queue = UnitQueue(["a", "b", "c"])
    for name in ("x", "y"):
        queue.join(name, 0.0)
    assert queue.take("x", 0.0).batch == ("a",)
    assert queue.assign("y", ["a", "b", "gone"], 1.0) == ("a", "b")
    assert queue.finished("y", "a", 2.0)
    assert queue.finished("y", "b", 3.0)
    assert not queue.finished("x", "a", 4.0)
    assert queue.take("x", 4.0).batch == ("c",)


def test_a_unit_that_comes_further_each_time_is_not_given_up() -> None:
    queue = UnitQueue(["long"], QueueRules(max_losses=2, max_host_failures=2, pause_s=0.0))
    queue.join("h", 0.0)
    for now in range(10):
        assert queue.take("h", float(now)).batch == ("long",)
        queue.progressed("h", "long")
        queue.lost("h", float(now), "taken away")
    assert queue.is_open("long")
    assert not queue.is_quarantined("h")


def test_a_paid_host_is_let_go_when_others_finish_what_is_left() -> None:
    queue = UnitQueue(["a", "b"], QueueRules(first_guess_s=10))
    for name in ("x", "y", "z"):
        queue.join(name, 0.0, costs=True)
    queue.take("x", 0.0)
    queue.take("y", 0.0)
    assert queue.take("z", 1.0) == Next()


Event = tuple[str, str, int]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["take", "finish", "fail", "own", "lose", "leave", "join", "drop", "assign", "progress"]),
        st.sampled_from(["x", "y", "z"]),
        st.integers(0, 5),
    ),
    max_size=120,
)


@settings(max_examples=150)
@given(EVENTS, st.sampled_from([60.0, math.inf]))
def test_whatever_happens_every_unit_ends_exactly_once(events: list[Event], batch_s: float) -> None:
    rules = QueueRules(max_attempts=2, max_losses=3, first_guess_s=10, pause_s=1, batch_s=batch_s)
    queue = UnitQueue(UNITS, rules)
    queue.num_expected = 1
    held: dict[str, list[str]] = {}
    now = 0.0
    for what, host, number in events:
        now += 1.0
        is_there = host in queue.hosts
        if what == "join" and not is_there:
            queue.join(host, now, places=1 + number % 3, costs=number > 2)
        elif what == "take" and is_there and not held.get(host):
            answer = queue.take(host, now)
            held[host] = list(answer.batch)
            assert answer.wait_s is None or not answer.batch
            assert len(set(answer.batch)) == len(answer.batch)
        elif what in {"finish", "fail", "own"} and held.get(host):
            unit = held[host].pop(number % len(held[host]))
            if what == "finish":
                queue.finished(host, unit, now)
            else:
                queue.failed(host, unit, "no", is_own_fault=what == "own")
        elif what == "lose" and is_there:
            queue.lost(host, now, "lost")
            held.pop(host, None)
        elif what == "leave":
            queue.leave(host)
            held.pop(host, None)
        elif what == "assign" and is_there and not held.get(host):
            held[host] = list(queue.assign(host, UNITS[number:], now))
        elif what == "progress":
            queue.progressed(host, UNITS[number])
        elif what == "drop" and is_there:
            queue.drop(host)
            held.pop(host, None)
    for host in queue.hosts:
        queue.leave(host)
    queue.num_expected = 0
    queue.give_up_if_alone()
    ended = [event.run_key for event in queue.drain()]
    assert sorted(ended) == sorted(UNITS)
    assert queue.num_open == 0


def test_a_fleet_with_failures_and_preemption_loses_nothing() -> None:
    hosts = [FleetHost(f"h{number}", unit_s=10.0 * (1 + number % 7)) for number in range(20)]
    fleet = Fleet(hosts, num_units=600, seed=1, preemption_rate=0.02)
    result = fleet.run()
    assert sorted(event.run_key for event in result.ended) == sorted(fleet.units)
    assert result.num_lost > 0
    assert result.num_preempted > 0


def test_a_slow_host_hardly_delays_a_fleet() -> None:
    hosts = [FleetHost("slow", unit_s=100.0), FleetHost("a", unit_s=10.0), FleetHost("b", unit_s=10.0)]
    result = Fleet(hosts, num_units=120, seed=2, loss_rate=0.0, preemption_rate=0.0).run()
    assert all(event.kind == "done" for event in result.ended)
    best_s = 120 / (0.1 + 0.1 + 0.01)
    assert result.seconds <= 1.15 * best_s


def test_a_host_that_never_came_is_the_reason_where_there_is_no_other() -> None:
    queue = UnitQueue(["a"])
    queue.num_expected = 1
    queue.num_expected -= 1
    queue.leave("h", "out of reach")
    (ended,) = queue.drain()
    assert ended.data["reason"] == "no host is left that could do it (last: h: out of reach)"
