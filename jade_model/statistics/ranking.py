"""A sweep's arms in order, with what is known of each, and what each setting is worth.

All statistics are a comparison's: the arms that were never stopped are compared by `compare_arms` on every seed. A
stopped arm keeps the score that it had when it was stopped, on the seeds until then. What a setting is worth is
measured on the seeds that all arms have, for who survives depends on the scores.

Legend: A arms, P contrasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic_core import to_jsonable_python

from jade_model.scoring.metrics import ScoredRows
from jade_model.scoring.parts import METRICS, Metric
from jade_model.statistics.compare import compare_arms
from jade_model.statistics.elimination import Elimination
from jade_model.statistics.pool import RULE, DataSet, Pool
from jade_model.statistics.scored_windows import ArmCounts, ArmScore, score_of
from jade_model.statistics.verdict import Difference, Question, outcome_of

SCHEMA_VERSION = 1
State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, eq=False)
class RaceArm:
    """An arm, and how far it came.

    Attributes:
        name: Of the arm.
        settings: Key -> value, of those in which the arms differ.
        scored: What its trainings got right and wrong in each data set.
        seeds: In which all of its trainings were done.
        stopped: Why it was stopped, or None.
        failures: What its failed trainings said, each once.
    """

    name: str
    settings: Mapping[str, Any]
    scored: Sequence[Sequence[ScoredRows]]
    seeds: Sequence[int]
    stopped: Elimination | None = None
    failures: Sequence[str] = ()

    @property
    def state(self) -> State:
        """How it ended."""
        if self.failures or not self.seeds:
            return "failed"
        return "stopped" if self.stopped is not None else "finished"


def rank(arms: Sequence[RaceArm], data: Sequence[DataSet], question: Question) -> dict[str, Any]:
    """Return ranking, verdict and the settings' worth as JSON values.

    Args:
        arms: In the order of the sweep; the first has the reference value of every setting.
        data: What they were scored on.
        question: Which F1 ranks, and what counts as a difference.

    Returns:
        `ranking` (one entry an arm, best first), `verdict`, `baseline`, `ingredients`, `seeds_of_ingredients`.
    """
    finished = [arm for arm in arms if arm.state == "finished"]
    entries: dict[str, dict[str, Any]] = {}
    nothing = f"None of the {len(arms)} arms has all of its trainings: there is nothing to rank."
    verdict: dict[str, Any] = {"outcome": "undecided", "best": None, "equals": [], "reason": nothing}
    baseline: dict[str, Any] = {}
    if finished:
        pool = Pool(data, finished[0].seeds)
        failed = [arm.name for arm in arms if arm.state == "failed"]
        counts = [pool.counts(arm.name, arm.scored) for arm in finished]
        verdict, entries, baseline = _judge(pool, counts, failed, question)
    for arm in arms:
        if arm.state == "stopped":
            pool = Pool(data, arm.seeds)
            scores = pool.windows.scores([pool.counts(arm.name, arm.scored)], confidence=question.confidence)
            entries[arm.name] = _scored(scores, arm.name)
    ingredients, seeds = worth(arms, data, question)
    order = sorted(arms, key=lambda arm: _place(arm, entries.get(arm.name), question.metric))
    return {
        "ranking": [_entry(arm, place, entries.get(arm.name, {})) for place, arm in enumerate(order, start=1)],
        "verdict": verdict,
        "baseline": baseline,
        "ingredients": ingredients,
        "seeds_of_ingredients": list(seeds),
    }


def worth(
    arms: Sequence[RaceArm], data: Sequence[DataSet], question: Question
) -> tuple[list[dict[str, Any]], Sequence[int]]:
    """Estimate what each value of each setting is worth against the setting's first value.

    A value's worth is the mean difference over pairs of arms that differ in this setting alone. Where there is no such
    pair, nothing is said. All intervals hold together.

    Returns:
        One entry a value, and the seeds that they rest on: those that every arm has.
    """
    whole = [arm for arm in arms if arm.state != "failed"]
    if len(whole) < 2:
        return [], ()
    seeds = min((arm.seeds for arm in whole), key=len)
    found: list[dict[str, Any]] = []
    contrasts: list[list[float]] = []
    for key in whole[0].settings:
        values = list(dict.fromkeys(arm.settings[key] for arm in whole))
        reference = arms[0].settings[key] if arms[0].settings[key] in values else values[0]
        for value in values:
            pairs = _pairs(whole, key, value, reference) if value != reference else []
            if pairs:
                weights = [0.0] * len(whole)
                for first, second in pairs:
                    weights[first] += 1 / len(pairs)
                    weights[second] -= 1 / len(pairs)
                contrasts.append(weights)
                found.append({"key": key, "value": value, "reference": reference, "pairs": len(pairs)})
    if not found:
        return [], seeds
    pool = Pool(data, seeds)
    effects = pool.windows.effects([pool.counts(arm.name, arm.scored) for arm in whole], np.array(contrasts), question)
    return [
        {
            **entry,
            "difference": effect.value,
            "confidence_interval": list(effect.confidence_interval),
            "adjusted_p_value": effect.adjusted_p_value,
            "outcome": outcome_of(effect.confidence_interval, question.margin),
        }
        for entry, effect in zip(found, effects, strict=True)
    ], seeds


def _pairs(arms: Sequence[RaceArm], key: str, value: Any, reference: Any) -> list[tuple[int, int]]:
    """Return the arms that differ in nothing but this setting: the one with the value, the one with the reference."""

    def others(arm: RaceArm) -> tuple[tuple[str, Any], ...]:
        return tuple((name, item) for name, item in arm.settings.items() if name != key)

    at_reference = {others(arm): index for index, arm in enumerate(arms) if arm.settings[key] == reference}
    return [
        (index, at_reference[others(arm)])
        for index, arm in enumerate(arms)
        if arm.settings[key] == value and others(arm) in at_reference
    ]


def _judge(
    pool: Pool, counts: Sequence[ArmCounts], failed: Sequence[str], question: Question
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Any]]:
    rule = pool.rule_counts()
    caveats = [f"Failed, so that nothing is known of them: {', '.join(failed)}."] if failed else []
    if len(counts) == 1:
        scores = pool.windows.scores([*counts, rule], confidence=question.confidence)
        name = counts[0].name
        if failed:
            outcome, reason = "undecided", f"{name} is the only arm with all of its trainings: others failed, not lost."
        else:
            outcome = "winner"
            reason = f"{name} is the only arm that was not stopped: another was shown to beat each of the others."
        caveats += pool.windows.caveats()
        verdict = {"outcome": outcome, "best": name, "equals": [], "reason": reason, "caveats": caveats}
        return verdict, {name: _scored(scores, name)}, _scored(scores, RULE)
    compared = compare_arms(counts, pool.windows, question, baseline=rule, caveats=caveats)
    pooled = [item for item in compared.differences if item.dataset is None and item.metric == question.metric]
    values = {arm.name: compared.score(arm.name, question.metric).value for arm in counts}
    best = max(values, key=lambda name: values[name])
    against = {
        other: _against(best, item)
        for item in pooled
        if best in {item.first, item.second}
        for other in {item.first, item.second} - {best, RULE}
    }
    entries = {arm.name: _scored(compared.scores, arm.name) | against.get(arm.name, {}) for arm in counts}
    for item in pooled:
        if item.second == RULE:
            entries[item.first]["beats_baseline"] = item.better == item.first
    verdict = {
        "outcome": compared.verdict.outcome,
        "best": best,
        "equals": [name for name, item in against.items() if item["outcome_against_best"] != "winner"],
        "reason": compared.verdict.reason,
        "caveats": list(compared.verdict.caveats),
    }
    return verdict, entries, _scored(compared.scores, RULE)


def _against(best: str, item: Difference) -> dict[str, Any]:
    low, high = item.confidence_interval
    is_first = item.first == best
    return {
        "best_minus_this": item.difference if is_first else -item.difference,
        "interval_of_difference": [low, high] if is_first else [-high, -low],
        "adjusted_p_value": item.adjusted_p_value,
        "outcome_against_best": item.outcome,
    }


def _scored(scores: Sequence[ArmScore], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for metric in METRICS:
        score = score_of(scores, name, metric)
        found[metric] = score.value
        found[f"{metric}_interval"] = list(score.confidence_interval)
    return found


def _place(arm: RaceArm, entry: Mapping[str, Any] | None, metric: Metric) -> tuple[int, int, float]:
    """Finished arms by score; below them those stopped last, as they survived more looks; then what failed."""
    kind = ("finished", "stopped", "failed").index(arm.state)
    looks = -arm.stopped.look if arm.stopped is not None else 0
    return kind, looks, -(entry[metric] if entry else 0.0)


def _entry(arm: RaceArm, place: int, scores: Mapping[str, Any]) -> dict[str, Any]:
    stopped = arm.stopped
    return {
        "place": place,
        "arm": arm.name,
        "settings": dict(arm.settings),
        "state": arm.state,
        "num_seeds": len(arm.seeds),
        **scores,
        "stopped": None if stopped is None else {k: v for k, v in to_jsonable_python(stopped).items() if k != "arm"},
        "failures": list(arm.failures),
    }
