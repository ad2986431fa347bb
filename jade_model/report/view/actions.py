"""What to do next: commands that can be pasted, chosen by rule."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from jade_model.data.sample import NAME as SAMPLE
from jade_model.report.facts import ArmFacts, Facts
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
    settings = facts.numbers.settings
    blind = [arm for arm in facts.arms if arm.is_blind]
    names = ", ".join(arm.name for arm in blind)
    recipe, repeated = _recipe(facts), _repetition(facts)
    actions = []
    if facts.leaks:
        actions.append(
            Action(
                "**Compare without the leak**: these scores are too high.",
                compare_command(facts, recipe, "--split grouped", repeated),
            )
        )
    elif len(settings.seeds) < 3:
        actions.append(
            Action("**Repeat with more seeds**: one or two prove little.", compare_command(facts, recipe, repeated))
        )
    if blind and recipe:
        actions.append(
            Action(
                f"**Give the models something to learn from** ({names}: separation about 0).",
                compare_command(facts, "--recipe jade", repeated),
            )
        )
    rising = [arm for arm in facts.arms if arm.overfits]
    if rising and settings.checkpoint == "last":
        actions.append(
            Action(
                f"**Score the best epoch's weights**: {', '.join(arm.name for arm in rising)} got worse after it.",
                compare_command(facts, recipe, repeated, "--checkpoint best"),
            )
        )
    more = facts.numbers.verdict.groups_needed
    if more is not None and not facts.leaks and not blind and not facts.is_training_luck:
        actions.append(
            Action(
                f"**Label about {count(more)} more base windows**, or pool another file, to settle what is undecided.",
                compare_command(facts, "--data MORE.parquet", recipe, repeated),
            )
        )
    return actions + _single_run_actions(facts)


def _single_run_actions(facts: Facts) -> list[Action]:
    actions = []
    data = _paths(facts)
    leader = facts.ranking()[0]
    checkpoint = _checkpoint(leader)
    if checkpoint and facts.beats_rule(leader.key):
        actions.append(
            Action(
                f"**Mark spans in new windows** with {leader.name} (F1 {number(leader.decoder.f1)}).",
                f"jade predict \\\n  --model-path {shlex.quote(_in_run(facts, checkpoint))} \\\n  "
                "--data-path NEW.parquet",
            )
        )
    sweeps = [
        f"jade optimize-threshold \\\n  --data-path {shlex.quote(data[0]) if data else 'NEW.parquet'} \\\n"
        f"  --model-path {shlex.quote(_in_run(facts, path))} \\\n"
        f"  --mode {MODES.get(arm.arm.loss, arm.arm.loss)} --device cpu"
        for arm in facts.arms
        if (path := _checkpoint(arm)) is not None
    ]
    if sweeps:
        actions.append(
            Action(
                "**Sweep the threshold of a checkpoint**; on the file that it was trained on the result flatters it.",
                "\n\n".join(sweeps),
            )
        )
    run_id = shlex.quote(facts.numbers.run_id)
    actions.append(Action("**See what changed** since another run.", f"jade diff {run_id} OTHER_RUN"))
    return actions


def compare_command(facts: Facts, *flags: str) -> str:
    """Return `jade compare` on the same data with other flags."""
    data = [f"--data {shlex.quote(path)}" for path in _paths(facts)]
    return " ".join(["jade compare", *data, *[flag for flag in flags if flag]])


def _recipe(facts: Facts) -> str:
    """The flag for the original's recipes, where the run used them: `jade` is the default."""
    return "--recipe seed" if any(arm.arm.recipe.startswith("seed_") for arm in facts.arms) else ""


def _repetition(facts: Facts) -> str:
    settings = facts.numbers.settings
    return f"--seeds {max(len(settings.seeds), 3)} --folds {max(settings.num_folds, 5)}"


def _paths(facts: Facts) -> list[str]:
    """Paths as given; the built-in sample has none."""
    known = [data.path for data in facts.numbers.data]
    given = facts.report.run.get("parameters", {}).get("data", known)
    return [str(path) for path in given if path != SAMPLE]


def _checkpoint(arm: ArmFacts) -> str | None:
    scored = [run for run in arm.arm.runs if run.checkpoint]
    best = min(scored, key=lambda run: (run.seed, run.fold), default=None)
    return None if best is None else best.checkpoint


def _in_run(facts: Facts, path: str) -> str:
    return f"{run_folder(facts)}/{path}"


def run_folder(facts: Facts) -> str:
    """Return where the run lies: where its record says that it is kept, whatever chose the place."""
    run = facts.report.run
    place = run.get("artifacts") or run.get("parameters", {}).get("artifacts") or "artifacts"
    return f"{place}/{facts.numbers.run_id}"
