"""The arms of a sweep: from a grid or a list, as a person writes them, to recipes; every mistake named by its key.

A setting's key is `recipe`, `feature_set`, or a field of the recipe's model or training: `model.hidden_size`,
`training.learning_rate`. TOML may write it as one quoted key or as tables.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jade_model.core.config import SPAN_HEADS, ModelConfig, Recipe, TrainingConfig
from jade_model.core.errors import ConfigError
from jade_model.core.features import feature_set
from jade_model.core.recipes import recipe, recipe_names
from tasks.core.errors import BadRequest

MAX_ARMS = 64
"""Every pair is tested: more arms than this are a search in stages, not one comparison."""

FAMILIES = ("jade", "seed")
"""Recipes of each loss: the best ones known, and the original's."""

NONE = "none"
"""How TOML, which has no null, says that an optional setting is off."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,119}")
_PARTS: dict[str, type] = {"model": ModelConfig, "training": TrainingConfig}
_KINDS: dict[str, Any] = {
    "recipe": str,
    "feature_set": str,
    **{
        f"{part}.{name}": kind
        for part, config in _PARTS.items()
        for name, kind in typing.get_type_hints(config).items()
    },
}
"""Key of a setting -> its type."""


@dataclass(frozen=True)
class SweepArm:
    """One arm.

    Attributes:
        name: Unique within the sweep; safe as a folder's name.
        recipe: What it is trained by.
        settings: Key -> value, as asked for; `recipe` first.
    """

    name: str
    recipe: Recipe
    settings: Mapping[str, Any]


def plan_arms(
    grid: Mapping[str, Any], listed: Sequence[Mapping[str, Any]], *, epochs: int | None = None
) -> tuple[SweepArm, ...]:
    """Return every combination of the grid, then the listed arms.

    Args:
        grid: Key -> list of values; must have `recipe`. Empty: no grid.
        listed: Each with `recipe`, what differs from it, and a `name` if the one made of its settings does not do.
        epochs: Instead of the recipes', where an arm says nothing of its own; None leaves them.

    Raises:
        BadRequest: A key is unknown, a value of another type or out of range, an arm there twice, or there are fewer
            than two or too many; the message names the key.
    """
    flat = _flat(grid, "grid")
    for key, values in flat.items():
        if not isinstance(values, list) or not values:
            raise BadRequest(f"grid.{key} must be a list of values, such as {_example(key)}, not {values!r}")
    if flat and "recipe" not in flat:
        raise BadRequest(f"grid.recipe is missing: a list of recipes to vary; choices: {', '.join(recipe_names())}")
    if (number := len(listed) + (math.prod(map(len, flat.values())) if flat else 0)) > MAX_ARMS:
        raise BadRequest(f"this is {number} arms; a sweep compares every pair and takes {MAX_ARMS} at most")
    asked: list[tuple[str, str | None, dict[str, Any]]] = []
    if flat:
        keys = ["recipe", *[key for key in flat if key != "recipe"]]
        varied = [key for key in keys if len(flat[key]) > 1 or key == "recipe"]
        for values in itertools.product(*(flat[key] for key in keys)):
            settings = dict(zip(keys, values, strict=True))
            asked.append(("grid", _name_of({key: settings[key] for key in varied}), settings))
    for number, table in enumerate(listed):
        where = f"arms[{number}]"
        settings = _flat({key: value for key, value in table.items() if key != "name"}, where)
        asked.append((where, table.get("name"), settings))
    arms = [_arm(where, name, settings, epochs) for where, name, settings in asked]
    _check_distinct(arms)
    if len(arms) < 2:
        raise BadRequest(f"a sweep compares two arms at least; grid and arms give {len(arms)}")
    return tuple(arms)


def recipes_of(family: str, arms: Sequence[str]) -> dict[str, str | Recipe]:
    """Return each arm's recipe: of a family, `jade` or `seed`, or as a user's TOML file says.

    The file has `base`, the family that holds where it says nothing (`jade`); settings of all arms, with the keys of a
    sweep; and those of one arm in `[arms.NAME]`, over them.

    Raises:
        BadRequest: The file cannot be read, or a key is unknown, a value of another type or out of range; the message
            names the key.
    """
    if not family.endswith(".toml"):
        return {arm: f"{family}_{arm}" for arm in arms}
    try:
        table = tomllib.loads(Path(family).expanduser().read_text("utf-8"))
    except FileNotFoundError as error:
        raise BadRequest(f"--recipe {family}: there is no such file; docs/extending.md shows one") from error
    except (OSError, ValueError) as error:
        raise BadRequest(f"--recipe {family}: cannot be read as TOML: {error}") from error
    base, of_arms = table.pop("base", FAMILIES[0]), table.pop("arms", {})
    if base not in FAMILIES:
        raise BadRequest(f"{family}: base is {base!r}; choose one of {', '.join(FAMILIES)}")
    if not isinstance(of_arms, dict) or (unknown := sorted(set(of_arms) - set(SPAN_HEADS))):
        found = ", ".join(unknown) if isinstance(of_arms, dict) else repr(of_arms)
        raise BadRequest(f"{family}: arms.{found} is no arm; tables [arms.NAME] are for {', '.join(SPAN_HEADS)}")
    shared = _settings_of_all(table, family)
    found_recipes: dict[str, str | Recipe] = {}
    for arm in arms:
        where = f"{family}: arms.{arm}"
        settings = {**shared, **_settings_of_all(of_arms.get(arm, {}), where), "recipe": f"{base}_{arm}"}
        try:
            found_recipes[arm] = _recipe(settings)
        except ConfigError as error:
            raise BadRequest(f"{family}, arm {arm}: {error}") from error
    return found_recipes


def _settings_of_all(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    settings = _flat(table, where)
    if "recipe" in settings:
        raise BadRequest(f"{where}.recipe: `base` says which recipes the file starts from: {', '.join(FAMILIES)}")
    return {key: _typed(where, key, value) for key, value in settings.items()}


def varied_settings(arms: Sequence[SweepArm]) -> dict[str, tuple[Any, ...]]:
    """Return the settings in which the arms differ: key -> values in order of appearance.

    What an arm does not mention has the value that its recipe gives it.
    """
    keys = dict.fromkeys(key for arm in arms for key in ("recipe", *arm.settings))
    found = {key: tuple(dict.fromkeys(setting_of(arm, key) for arm in arms)) for key in keys}
    return {key: values for key, values in found.items() if len(values) > 1}


def setting_of(arm: SweepArm, key: str) -> Any:
    """Return an arm's value of a setting."""
    return arm.settings["recipe"] if key == "recipe" else operator.attrgetter(key)(arm.recipe)


def _arm(where: str, name: Any, settings: dict[str, Any], epochs: int | None) -> SweepArm:
    if "recipe" not in settings:
        raise BadRequest(f"{where}.recipe is missing; choices: {', '.join(recipe_names())}")
    typed = {key: _typed(where, key, value) for key, value in settings.items()}
    typed = {"recipe": typed["recipe"], **typed}
    shown = _name_of(typed) if name is None else name
    if not isinstance(shown, str) or not _NAME.fullmatch(shown):
        raise BadRequest(
            f"{where}.name is {shown!r}; a name has letters, digits and ._=,+- (120 at most) and starts with a letter "
            "or digit"
        )
    default = {} if epochs is None else {"training.epochs": epochs}
    try:
        chosen = _recipe({**default, **typed})
    except ConfigError as error:
        # A recipe's own message begins with the field; which value of which arm it was must be said, too.
        raise BadRequest(f"{where} ({shown}): {error}") from error
    return SweepArm(shown, chosen, typed)


def _recipe(settings: Mapping[str, Any]) -> Recipe:
    base = recipe(settings["recipe"])
    chosen = base
    for key, value in settings.items():
        part, _, field = key.rpartition(".")
        if key == "recipe":
            continue
        if part:
            chosen = dataclasses.replace(chosen, **{part: dataclasses.replace(getattr(chosen, part), **{field: value})})
        else:
            feature_set(value)
            chosen = dataclasses.replace(chosen, **{field: value})
    # A recipe's name is a part of its run key: plain ones keep theirs, so that a comparison's trainings are found
    # again. The number of epochs is not told, for a comparison's `--epochs` does not change the name either.
    changed = sorted(
        f"{key.rpartition('.')[2]}={_shown(value)}"
        for key, value in settings.items()
        if key not in {"recipe", "training.epochs"} and operator.attrgetter(key)(base) != value
    )
    return dataclasses.replace(chosen, name="+".join([base.name, *changed]))


def _check_distinct(arms: Sequence[SweepArm]) -> None:
    by_name: dict[str, SweepArm] = {}
    by_recipe: dict[Recipe, SweepArm] = {}
    for arm in arms:
        # Folders' names: some file systems do not tell large letters from small ones.
        if arm.name.lower() in by_name:
            raise BadRequest(f"two arms are called {arm.name!r}; give one of them a `name` of its own")
        if arm.recipe in by_recipe:
            raise BadRequest(f"the arms {by_recipe[arm.recipe].name!r} and {arm.name!r} are the same recipe")
        by_name[arm.name.lower()], by_recipe[arm.recipe] = arm, arm


def _flat(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings by their full keys, all of them known."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        entries = (
            {f"{key}.{inner}": item for inner, item in value.items()} if isinstance(value, Mapping) else {key: value}
        )
        for full, item in entries.items():
            _check_known(full, where)
            if full in found:
                raise BadRequest(f"{where}.{full} is given twice")
            found[full] = item
    return found


def _check_known(key: str, where: str) -> None:
    if key in _KINDS:
        return
    if key == "loss":
        raise BadRequest(f"{where}.loss: a recipe has its loss; choose by recipe: {', '.join(recipe_names())}")
    by_field = {full.rpartition(".")[2]: full for full in _KINDS}
    close = by_field.get(key) or next(iter(get_close_matches(key, _KINDS, n=1)), None)
    hint = f"did you mean {close!r}? " if close else ""
    raise BadRequest(f"{where}.{key} is no setting of a recipe; {hint}Known: {', '.join(_KINDS)}")


def _typed(where: str, key: str, value: Any) -> Any:
    kind = _KINDS[key]
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value == NONE and type(None) in options:
        return None
    for option in options:
        if option is bool and isinstance(value, bool):
            return value
        if option is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if (option is str or typing.get_origin(option) is typing.Literal) and isinstance(value, str):
            return value
    wanted = " or ".join(_kind_name(option) for option in options)
    raise BadRequest(f"{where}.{key} is {value!r}; it must be {wanted}")


def _kind_name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(kind))
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): f"{NONE!r}"}[kind]


def _name_of(settings: Mapping[str, Any]) -> str:
    parts = [str(settings["recipe"])]
    parts += [f"{key.rpartition('.')[2]}={_shown(value)}" for key, value in settings.items() if key != "recipe"]
    return ",".join(parts)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return NONE if value is None else re.sub(r"[^A-Za-z0-9._+-]", "-", str(value))


def _example(key: str) -> str:
    return {"recipe": '["jade_crf", "jade_single_span"]', "training.learning_rate": "[0.001, 0.004]"}.get(key, "[1, 2]")
