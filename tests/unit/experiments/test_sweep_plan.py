"""The arms of a sweep: every combination, names, and mistakes named by their key."""

from __future__ import annotations

from typing import Any

import pytest

from jade_model.core.recipes import recipe
from tasks.core.errors import BadRequest
from tasks.experiments.sweep_plan import plan_arms, setting_of, varied_settings

GRID: dict[str, Any] = {"recipe": ["jade_crf", "seed_crf"], "training": {"learning_rate": [0.001, 0.004]}}


def test_a_grid_gives_every_combination_and_the_list_comes_after_it() -> None:
    arms = plan_arms(GRID, [{"recipe": "jade_single_span", "name": "mine"}])
    assert [arm.name for arm in arms] == [
        "jade_crf,learning_rate=0.001",
        "jade_crf,learning_rate=0.004",
        "seed_crf,learning_rate=0.001",
        "seed_crf,learning_rate=0.004",
        "mine",
    ]
    assert [setting_of(arm, "training.learning_rate") for arm in arms[:2]] == [0.001, 0.004]
    assert varied_settings(arms)["recipe"] == ("jade_crf", "seed_crf", "jade_single_span")


def test_an_arm_without_changes_is_the_recipe_itself_so_that_its_trainings_are_found_again() -> None:
    arms = plan_arms(GRID, [])
    assert arms[1].recipe == recipe("jade_crf")
    assert arms[0].recipe.name == "jade_crf+learning_rate=0.001"


def test_none_turns_an_optional_setting_off_and_epochs_are_a_default() -> None:
    off, own = plan_arms(
        {},
        [
            {"recipe": "jade_crf", "training": {"gradient_clip": "none"}},
            {"recipe": "jade_crf", "training.epochs": 7},
        ],
        epochs=3,
    )
    assert off.recipe.training.gradient_clip is None
    assert (off.recipe.training.epochs, own.recipe.training.epochs) == (3, 7)


@pytest.mark.parametrize(
    ("grid", "listed", "words"),
    [
        ({"recipe": ["jade_crg"]}, [], ("grid (jade_crg)", "did you mean 'jade_crf'")),
        ({"recipe": ["jade_crf"], "learning_rate": [1]}, [], ("grid.learning_rate", "'training.learning_rate'")),
        ({"recipe": ["jade_crf"], "training.learning_rate": [-1]}, [], ("training.learning_rate is -1", "positive")),
        ({"recipe": ["jade_crf"], "training.learning_rate": ["a"]}, [], ("grid.training.learning_rate is 'a'",)),
        ({"recipe": ["jade_crf"], "model.hidden_size": [8.5]}, [], ("grid.model.hidden_size is 8.5", "whole number")),
        ({"recipe": "jade_crf"}, [], ("grid.recipe must be a list",)),
        ({"training.epochs": [1, 2]}, [], ("grid.recipe is missing",)),
        ({}, [{"model.hidden_size": 8}], ("arms[0].recipe is missing",)),
        ({}, [{"recipe": "jade_crf", "name": "../up"}, {"recipe": "seed_crf"}], ("arms[0].name", "'../up'")),
        ({}, [{"recipe": "jade_crf", "name": "x"}, {"recipe": "seed_crf", "name": "X"}], ("two arms are called",)),
        ({}, [{"recipe": "jade_crf", "name": "x"}, {"recipe": "jade_crf"}], ("are the same recipe",)),
        ({}, [{"recipe": "jade_crf", "loss": "crf"}], ("arms[0].loss", "choose by recipe")),
        ({}, [{"recipe": "jade_crf"}], ("two arms at least",)),
        ({"recipe": ["jade_crf"], "model.hidden_size": list(range(1, 70))}, [], ("69 arms", "64 at most")),
        ({"recipe": ["jade_crf"], "feature_set": ["nope", "no"]}, [], ("unknown feature set 'nope'",)),
    ],
)
def test_every_mistake_is_named_by_its_key(grid: dict[str, Any], listed: list[Any], words: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest) as refused:
        plan_arms(grid, listed)
    assert all(word in str(refused.value) for word in words), str(refused.value)
