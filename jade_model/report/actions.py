"""What to do next: commands that can be pasted, chosen by rule."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.insight import NO_SEPARATION, OVERFITTING_RISE
from jade_model.report.naming import contestant
from jade_model.report.numbers import count, number

MODES = {"soft_span": "soft"}


@dataclass(frozen=True)
class Action:
    """One thing to do.

    Attributes:
        why: One sentence, inline markup.
        command: A shell command, or empty.
    """

    why: str
    command: str = ""


def next_actions(facts: Facts) -> list[Action]:
    """Return what the numbers call for, most urgent first."""
    settings = facts.numbers["settings"]
    verdict = facts.numbers["verdict"]
    actions = []
    blind = [arm for arm in facts.arms if arm.separation is not None and arm.separation < NO_SEPARATION]
    seeds, folds = max(len(settings["seeds"]), 3), max(settings["num_folds"], 5)
    if facts.leaks:
        actions.append(
            Action(
                "**Compare without the leak**: these scores are too high.",
                compare_command(facts, f"--split grouped --seeds {seeds} --folds {folds}"),
            )
        )
    elif len(settings["seeds"]) < 3 or settings["num_folds"] < 5:
        actions.append(
            Action(
                "**Repeat with more seeds and folds**: one repetition proves little.",
                compare_command(facts, f"--seeds {seeds} --folds {folds}"),
            )
        )
    if blind and any(arm.arm["recipe"].startswith("seed_") for arm in blind):
        names = ", ".join(arm.name for arm in blind)
        actions.append(
            Action(
                f"**Give the models something to learn from** ({names}: separation about 0).",
                compare_command(facts, f"--recipe jade --split grouped --seeds {seeds} --folds {folds}"),
            )
        )
    rising = [arm for arm in facts.arms if (arm.rise_since_best or 0.0) > OVERFITTING_RISE]
    if rising and settings["checkpoint"] == "last":
        actions.append(
            Action(
                f"**Score the best epoch's weights**: {', '.join(arm.name for arm in rising)} got worse after it.",
                compare_command(facts, f"{_repetition(facts)} --checkpoint best"),
            )
        )
    if len(facts.arms) > 1 and verdict["outcome"] == "undecided" and verdict["groups_needed"] is not None:
        actions.append(
            Action(
                f"**Label about {count(verdict['groups_needed'])} more base windows**, or pool another "
                f"file, to decide between {contestant(verdict['first'], facts.styles)} and "
                f"{contestant(verdict['second'], facts.styles)}.",
                compare_command(facts, f"--data MORE.parquet {_repetition(facts)}"),
            )
        )
    actions += _single_run_actions(facts)
    return actions


def _single_run_actions(facts: Facts) -> list[Action]:
    actions = []
    data = _paths(facts)
    leader = facts.ranking()[0]
    checkpoint = _checkpoint(leader)
    if checkpoint and facts.beats_rule(leader.key):
        actions.append(
            Action(
                f"**Mark spans in new windows** with {leader.name} (F1 {number(leader.decoder['f1'])}).",
                f"jade predict \\\n  --model-path {shlex.quote(_in_run(facts, checkpoint))} \\\n  "
                "--data-path NEW.parquet",
            )
        )
    sweeps = [
        f"jade optimize-threshold \\\n  --data-path {shlex.quote(data[0]) if data else 'NEW.parquet'} \\\n"
        f"  --model-path {shlex.quote(_in_run(facts, path))} \\\n"
        f"  --mode {MODES.get(arm.arm['loss'], arm.arm['loss'])} --device cpu"
        for arm in facts.arms
        if (path := _checkpoint(arm)) is not None
    ]
    if sweeps:
        actions.append(
            Action(
                "**Sweep the cut-off of a checkpoint**, as the first comparison did; on the file that it "
                "was trained on the result flatters it.",
                "\n\n".join(sweeps),
            )
        )
    run_id = shlex.quote(facts.numbers["run_id"])
    actions.append(Action("**See what changed** since another run.", f"jade diff {run_id} OTHER_RUN"))
    return actions


def compare_command(facts: Facts, flags: str) -> str:
    """Return `jade compare` on the same data with other flags."""
    data = " ".join(f"--data {shlex.quote(path)}" for path in _paths(facts))
    return " ".join(part for part in ("jade compare", data, flags) if part)


def _repetition(facts: Facts) -> str:
    settings = facts.numbers["settings"]
    return f"--seeds {max(len(settings['seeds']), 3)} --folds {max(settings['num_folds'], 5)}"


def _paths(facts: Facts) -> list[str]:
    """Paths as given; the built-in sample has none."""
    given = facts.report.run.get("parameters", {}).get("data")
    return [str(path) for path in given] if given is not None else [data["path"] for data in facts.numbers["data"]]


def _checkpoint(arm: ArmFacts) -> str | None:
    scored = [run for run in arm.arm["runs"] if run["checkpoint"]]
    best = min(scored, key=lambda run: (run["seed"], run["fold"]), default=None)
    return None if best is None else best["checkpoint"]


def _in_run(facts: Facts, path: str) -> str:
    folder = str(facts.report.run.get("folder") or f"artifacts/{facts.numbers['run_id']}")
    return f"{folder}/{path}"
