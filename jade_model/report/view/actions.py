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
    settings, more = facts.numbers.settings, facts.numbers.verdict.groups_needed
    blind = [arm.name for arm in facts.arms if arm.is_blind]
    rising = [arm.name for arm in facts.arms if arm.overfits]
    recipe, repeated = _recipe(facts), _repetition(facts)
    found: list[tuple[str, tuple[str, ...]]] = []
    if facts.leaks:
        why = "**Compare without the leak**: these scores are too high."
        found.append((why, (recipe, "--split grouped", repeated)))
    elif len(settings.seeds) < 3:
        found.append(("**Repeat with more seeds**: one or two prove little.", (recipe, repeated)))
    if blind and recipe:
        why = f"**Give the models something to learn from** ({', '.join(blind)}: separation about 0)."
        found.append((why, ("--recipe jade", repeated)))
    if rising and settings.checkpoint == "last":
        why = f"**Score the best epoch's weights**: {', '.join(rising)} got worse after it."
        found.append((why, (recipe, repeated, "--checkpoint best")))
    if more is not None and not facts.leaks and not blind and not facts.is_training_luck:
        why = f"**Label about {count(more)} more base windows**, or pool another file, to settle what is undecided."
        found.append((why, ("--data MORE.parquet", recipe, repeated)))
    return [Action(why, compare_command(facts, *flags)) for why, flags in found] + _single_run_actions(facts)


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
