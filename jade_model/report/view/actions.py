"""What to do next: commands that can be pasted, chosen by rule."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jade_model.core.config import LOSSES
from jade_model.data.sample import NAME as SAMPLE
from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.numbers import count, number

MODES = {"soft_span": "soft"}
USUAL: Mapping[str, Any] = {
    "data": [SAMPLE],
    "host": ["local"],
    "max_hours": 4.0,
    "orphan_grace": 15.0,
    "arms": [*LOSSES],
    "recipe": "jade",
    "split": "grouped",
    "ensemble": 1,
    "checkpoint": "last",
    "margin": 0.03,
    "min_span_length": 1,
    "merge_gap": 0,
}
"""What `jade compare` does without a flag."""
REPEATED = {"host"}
"""Flags that take one value each; those of other lists stand with commas between them."""


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
    fewest = min(data.num_groups for data in facts.numbers.data)
    folds = max(settings.num_folds, min(5, fewest))
    repeated = {"split": "grouped", "seeds": max(len(settings.seeds), 3), "folds": folds}
    actions = []
    if facts.leaks:
        why = "**Compare without the leak**: these scores are too high."
        actions.append(Action(why, compare_command(facts, **repeated)))
    elif len(settings.seeds) < 3:
        why = "**Repeat with more seeds**: one or two prove little."
        actions.append(Action(why, compare_command(facts, **repeated)))
    if blind and uses_seed_recipe(facts):
        why = f"**Give the models something to learn from** ({', '.join(blind)}: separation about 0)."
        actions.append(Action(why, compare_command(facts, recipe="jade", epochs=None, **repeated)))
    if rising and settings.checkpoint == "last":
        why = f"**Score the best epoch's weights**: {', '.join(rising)} got worse after it."
        actions.append(Action(why, compare_command(facts, checkpoint="best", **repeated)))
    if more is not None and not facts.leaks and not blind and not facts.is_training_luck:
        why = f"**Label about {count(more)} more base windows**, or pool another file, to settle what is undecided."
        data = [*_parameters(facts)["data"], "MORE.parquet"]
        actions.append(Action(why, compare_command(facts, data=data, **repeated)))
    return actions + _single_run_actions(facts)


def _single_run_actions(facts: Facts) -> list[Action]:
    actions = []
    data = [path for path in _parameters(facts)["data"] if path != SAMPLE]
    module = facts.report.run.get("parameters", {}).get("arm_module")
    own = f" \\\n  --arm-module {shlex.quote(module)}" if module else ""
    leader = facts.ranking()[0]
    checkpoint = _checkpoint(leader)
    if checkpoint and facts.beats_rule(leader.key):
        actions.append(
            Action(
                f"**Mark spans in new windows** with {leader.name} (F1 {number(leader.decoder.f1)}).",
                f"jade predict \\\n  --model-path {shlex.quote(_in_run(facts, checkpoint))} \\\n  "
                f"--data-path NEW.parquet{own}",
            )
        )
    if checkpoint:
        actions.append(
            Action(
                "**Sweep the threshold of a checkpoint**; on the file that it was trained on the result flatters it.",
                f"jade optimize-threshold \\\n  --data-path {shlex.quote(data[0]) if data else 'NEW.parquet'} \\\n"
                f"  --model-path {shlex.quote(_in_run(facts, checkpoint))} \\\n"
                f"  --mode {MODES.get(leader.arm.loss, leader.arm.loss)}{own}",
            )
        )
    run_id = shlex.quote(facts.numbers.run_id)
    actions.append(Action("**See what changed** since another run.", f"jade diff {run_id} OTHER_RUN"))
    return actions


def compare_command(facts: Facts, **changed: Any) -> str:
    """Return the run's own `jade compare` with some of its flags changed."""
    words, told = ["jade", "compare"], _parameters(facts)
    for name, value in (told | changed).items():
        is_usual = value == USUAL.get(name) and told.get(name, value) == value
        if is_usual or value in (None, False, []):
            continue
        values = value if name in REPEATED | {"data"} else [",".join(value)] if isinstance(value, list) else [value]
        for item in values:
            words += [f"--{name.replace('_', '-')}", *([] if item is True else [shlex.quote(str(item))])]
    return " ".join(words)


def uses_seed_recipe(facts: Facts) -> bool:
    """Whether the original's recipes were compared: `jade` is the default."""
    return any(arm.arm.recipe.startswith("seed_") for arm in facts.arms)


def _parameters(facts: Facts) -> dict[str, Any]:
    """Return what the run was told, as `jade compare` takes it; of a run without a record, what its result says."""
    known = {
        "data": [data.path for data in facts.numbers.data],
        "recipe": "seed" if uses_seed_recipe(facts) else "jade",
        "split": facts.numbers.settings.split,
    }
    given = facts.report.run.get("parameters", {})
    flat = {key: item for group in ("placement", "rental", "scoring") for key, item in given.get(group, {}).items()}
    flat |= {key: item for key, item in given.items() if not isinstance(item, Mapping)}
    flat.pop("fresh", None)
    return known | flat


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
