"""A sweep while it goes on: rounds of trainings on an engine, a look after each, and what comes of it as files.

A round is one seed: every arm that is still in the race, all folds and data sets. Without early stopping there is one
round of all seeds, so that nothing waits at its end for the slowest training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jade_model.core.checkpoint import load_checkpoint, model_of
from jade_model.core.files import write_atomically
from jade_model.core.job import Job, Training
from jade_model.core.training_files import files_of
from jade_model.core.windows import Windows
from jade_model.data.splits import group_windows
from jade_model.scoring.decoding import Cleanup, decoders_of
from jade_model.scoring.evaluate import FoldCounts, evaluate_rule, score_fold
from jade_model.scoring.metrics import truth_of
from jade_model.scoring.parts import Metric
from jade_model.scoring.predict import predictor_of
from jade_model.statistics.elimination import Elimination, StoppingRule, eliminate
from jade_model.statistics.pool import DataSet, Pool, verdict_decoder
from jade_model.statistics.ranking import SCHEMA_VERSION, RaceArm, rank
from jade_model.statistics.verdict import Question
from tasks.core.errors import BadRequest, TrainingsFailed
from tasks.core.layout import RunLayout
from tasks.execution.base import Event, checkpoint_of
from tasks.execution.run import TrainingRun
from tasks.experiments.plan import Plan, make_splits
from tasks.experiments.sweep_plan import SweepArm, setting_of, varied_settings
from tasks.experiments.sweep_table import UnitRow, write_table
from tasks.settings.environment import available_cores

ARMS_FOLDER = "arms/"


@dataclass(frozen=True)
class SweepSettings:
    """How a sweep is scored and when arms are stopped.

    Attributes:
        metric: Which F1 ranks.
        margin: Largest difference that counts as none.
        confidence: Of every interval.
        error_rate: Of the stopping rule; None: nobody is stopped.
        checkpoint: `last` or `best`.
        cleanup: What happens to marked bars.
    """

    metric: Metric
    margin: float
    confidence: float
    error_rate: float | None
    checkpoint: str
    cleanup: Cleanup


def check_distinct(job: Job) -> None:
    """Refuse arms that train the same on a data set.

    Raises:
        BadRequest: Two trainings have one run key, for instance because no span is as long as either arm admits.
    """
    seen: dict[str, Training] = {}
    for training in job.trainings:
        other = seen.setdefault(training.run_key, training)
        if other is not training:
            raise BadRequest(
                f"the arms {other.arm!r} and {training.arm!r} train the same on {training.dataset}: what differs "
                f"between "
                "them makes no difference there; leave one of them out"
            )


class Sweep:
    """The state of one sweep.

    Args:
        layout: The run's folder.
        job: All of its trainings.
        arms: In order.
        windows: The data sets.
        plan: What the job was made of.
        settings: How it is scored.
    """

    def __init__(
        self,
        layout: RunLayout,
        job: Job,
        arms: Sequence[SweepArm],
        windows: Sequence[Windows],
        plan: Plan,
        settings: SweepSettings,
    ) -> None:
        self.layout, self.job, self.settings = layout, job, settings
        self.arms = {arm.name: arm for arm in arms}
        self.seeds = list(range(plan.seeds))
        self._data = [_data_set(item, plan) for item in windows]
        self._truth = [truth_of(item.windows) for item in self._data]
        self._done: set[str] = set()
        self._scores: dict[str, FoldCounts] = {}
        self._failed: dict[str, Event] = {}
        self._stopped: dict[str, Elimination] = {}
        self._looks = 0

    @property
    def rounds(self) -> list[tuple[int, ...]]:
        """The seeds of each round."""
        if self.settings.error_rate is None or len(self.seeds) == 1:
            return [tuple(self.seeds)]
        return [(seed,) for seed in self.seeds]

    @property
    def data_entries(self) -> list[dict[str, Any]]:
        """What `sweep.json` says of the data."""
        return [
            {
                "name": item.windows.name,
                "path": item.windows.path,
                "sha256": item.windows.sha256,
                "num_windows": item.windows.num_windows,
                "num_groups": item.grouping.num_groups,
            }
            for item in self._data
        ]

    def trainings_of(self, seeds: Iterable[int]) -> list[Training]:
        """Return what a round trains: arms that were stopped, or that have failed, do not go on."""
        failed = {training.arm for training in self.job.trainings if training.run_key in self._failed}
        wanted = set(seeds)
        return [
            training
            for training in self.job.trainings
            if training.seed in wanted and training.arm not in self._stopped and training.arm not in failed
        ]

    def train(self, training: TrainingRun, seeds: Sequence[int], name: str) -> Iterator[Event]:
        """Run a round; tell each event.

        Args:
            training: Of the run.
            seeds: Of the round.
            name: Of the round, for people.
        """
        trainings = {item.run_key: item for item in self.trainings_of(seeds)}
        with self._log.open("a", encoding="utf-8") as log:
            for event in training.run(list(trainings.values()), lambda _: name):
                if event.kind in {"done", "failed"}:
                    log.write(json.dumps(_logged(event, trainings[event.run_key])) + "\n")
                    log.flush()
                    if event.kind == "failed":
                        self._failed[event.run_key] = event
                    else:
                        self._done.add(event.run_key)
                yield event

    def score(self) -> None:
        """Score what was trained since the last time, and write the table as far as it goes."""
        new = self._done - self._scores.keys()
        pending = [training for training in self.job.trainings if training.run_key in new]
        # numpy and torch let go of the interpreter for most of it.
        with ThreadPoolExecutor(available_cores()) as pool:
            for training, score in zip(pending, pool.map(self._score, pending), strict=True):
                self._scores[training.run_key] = score
        self.write_table()

    def look(self) -> tuple[Elimination, ...]:
        """Stop the arms that cannot win any more; return them."""
        self._looks += 1
        racing = [arm for arm in self._race() if arm.state == "finished"]
        if self.settings.error_rate is None or len(racing) < 2:
            return ()
        rule = StoppingRule(self.settings.error_rate, max(1, len(self.rounds) - 1), self.settings.metric)
        pool = Pool(self._data, racing[0].seeds)
        stopped = eliminate(rule, self._looks, [pool.counts(arm.name, arm.scored) for arm in racing], pool.windows)
        self._stopped |= {item.arm: item for item in stopped}
        return stopped

    @property
    def num_racing(self) -> int:
        """Arms that may still win."""
        return sum(arm.state == "finished" for arm in self._race())

    def finish(self, *, created_at: str) -> dict[str, Any]:
        """Rank the arms and write `sweep.json`.

        Returns:
            `sweep.json`.
        """
        settings = self.settings
        question = Question(settings.metric, settings.margin, settings.confidence)
        ranked = rank(self._race(), self._data, question)
        result = {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.layout.run_id,
            "created_at": created_at,
            "settings": {
                "metric": settings.metric,
                "margin": settings.margin,
                "confidence": settings.confidence,
                "error_rate": settings.error_rate,
                "seeds": len(self.seeds),
                "folds": 1 + max(training.fold for training in self.job.trainings),
                "checkpoint": settings.checkpoint,
            },
            "varied": {key: list(values) for key, values in varied_settings(list(self.arms.values())).items()},
            "data": self.data_entries,
            "trainings": {
                "planned": len(self.job.trainings),
                "done": len(self._scores),
                "failed": len(self._failed),
                "spared": len(self.job.trainings) - len(self._scores) - len(self._failed),
                "stopped_arms": len(self._stopped),
            },
            **ranked,
        }
        write_atomically(self.layout.sweep_json, json.dumps(result, indent=2, allow_nan=False) + "\n")
        return result

    def write_table(self) -> None:
        """Write `results.parquet`: one row a training, in the order of the job."""
        varied = varied_settings(list(self.arms.values()))
        rows = [
            UnitRow(
                training,
                {key: setting_of(self.arms[training.arm], key) for key in varied},
                self._scores.get(training.run_key),
                self._failed.get(training.run_key),
            )
            for training in self.job.trainings
        ]
        write_table(rows, self.layout.results_parquet)

    def raise_if_not_run(self) -> None:
        """Refuse to call a sweep done whose trainings failed through no fault of their own.

        Raises:
            TrainingsFailed: With the first reasons. What is done is kept: the same command goes on there.
        """
        titles = {training.run_key: training.title for training in self.job.trainings}
        others = [item for item in self._failed.values() if not item.data["is_own_fault"]]
        if others:
            told = [(item.data["reason"], f"{titles[item.run_key]} ({item.where})") for item in others]
            reasons = {reason: f"{who}: {reason}" for reason, who in told}
            raise TrainingsFailed(len(others), len(self.job.trainings), list(reasons.values()))

    @property
    def _log(self) -> Path:
        return self.layout.root / "units.jsonl"

    def _score(self, training: Training) -> FoldCounts:
        index = next(d for d, item in enumerate(self._data) if item.windows.name == training.dataset)
        item = self._data[index]
        split = next(split for split in item.splits if (split.seed, split.fold) == (training.seed, training.fold))
        path = checkpoint_of(files_of(training, self.layout.root), self.settings.checkpoint)
        checkpoint = load_checkpoint(path, feature_set_name=training.recipe.feature_set)
        return score_fold(
            predictor_of([model_of(checkpoint)], training.recipe),
            item.windows,
            self._truth[index],
            split,
            verdict_decoder(decoders_of(training.recipe.loss), self._data),
            cleanup=self.settings.cleanup,
        )

    def _race(self) -> list[RaceArm]:
        varied = varied_settings(list(self.arms.values()))
        found = []
        for arm in self.arms.values():
            mine = [training for training in self.job.trainings if training.arm == arm.name]
            missing = {training.seed for training in mine if training.run_key not in self._scores}
            done = [(t.dataset, self._scores[t.run_key]) for t in mine if t.run_key in self._scores]
            scored = [[score for name, score in done if name == item.windows.name] for item in self._data]
            failures = [self._failed[t.run_key].data["reason"] for t in mine if t.run_key in self._failed]
            found.append(
                RaceArm(
                    arm.name,
                    {key: setting_of(arm, key) for key in varied},
                    scored,
                    [seed for seed in self.seeds if seed not in missing],
                    self._stopped.get(arm.name),
                    tuple(dict.fromkeys(failures)),
                )
            )
        return found


def _data_set(windows: Windows, plan: Plan) -> DataSet:
    grouping = group_windows(windows)
    splits = make_splits(windows, grouping, plan)
    rule, rule_bars = evaluate_rule(windows, splits)
    return DataSet(windows, grouping, splits, rule, rule_bars)


def _logged(event: Event, training: Training) -> Mapping[str, Any]:
    told: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "arm": training.arm,
        "dataset": training.dataset,
        "seed": training.seed,
        "fold": training.fold,
        "run_key": event.run_key,
        "where": event.where,
    }
    names = ("seconds",) if event.kind == "done" else ("reason", "attempts")
    return told | {"event": event.kind, **{name: event.data[name] for name in names}}
