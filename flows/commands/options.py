"""Flags from a flow's parameters, and parameters from flags: the models alone name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import click
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from flows.commands.common import FunctionT
from flows.parameters import fields_of
from jade_model.data.sample import NAME as SAMPLE
from tasks.execution.placement import Placement, check_placement
from tasks.provisioning.offers import RentalRequest
from tasks.runs.tracking import tracks
from tasks.settings.load import load_settings
from tasks.settings.models import LOCAL, PROVIDERS

ModelT = TypeVar("ModelT", bound=BaseModel)

REPLACED = {
    "engine": "--host says where trainings run: local, hosts' names, dask or a provider",
    "hosts": "--host takes several: --host gpu1 --host gpu2",
    "scheduler": "--host takes the scheduler's address: --host tcp://HOST:8786",
    "rent": "--host takes the number: --host runpod:8",
    "provider": "--host takes the provider: --host runpod, or --host runpod:8",
    "parallel_arms": "--workers arms says the same",
}
"""Names that flags, files and forms had until one flag said where trainings run."""

SAMPLE_DATA = {"data": [SAMPLE]}
"""What a command is about if it is given no data; a flow must be told."""

_SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def flags_of(model: type[BaseModel], *, leave_out: tuple[str, ...] = ()) -> Callable[[FunctionT], FunctionT]:
    """Give a command one flag of each field, those of nested models included; names of old say what replaces them.

    Args:
        model: The parameters.
        leave_out: Fields without a flag.
    """

    def decorate(function: FunctionT) -> FunctionT:
        flags = [
            _option(path[-1], field, schema) for path, field, schema in _leaves(model) if path[-1] not in leave_out
        ]
        flags += [_refusing(name, instead) for name, instead in REPLACED.items()]
        # As click's own decorators leave them: the last one first.
        function.__dict__.setdefault("__click_params__", []).extend(reversed(flags))
        return function

    return decorate


def _leaves(model: type[BaseModel]) -> Iterator[tuple[tuple[str, ...], FieldInfo, dict[str, Any]]]:
    """Give each field that is no model of its own: the names that lead to it, itself, and its JSON schema."""
    schemas = model.model_json_schema()["properties"]
    for name, field in fields_of(model).items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for path, leaf, schema in _leaves(field.annotation):
                yield (name, *path), leaf, schema
        else:
            yield (name,), field, schemas[name]


def parameters_of(
    model: type[ModelT], flags: Mapping[str, Any], *, below: Mapping[str, Any] | None = None, file: str = ""
) -> ModelT:
    """Return parameters as flags, and a file below them, say; where trainings run is looked at as well.

    Args:
        model: The parameters.
        flags: By field's name; None and () were not given.
        below: What holds where no flag is given, by field's name.
        file: Where that stands, for messages.

    Raises:
        click.UsageError: A value is refused; every one is named with its flag or key.
        BadRequest, HostError: As `check_placement` and `tracks`.
    """
    paths = {path[-1]: path for path, *_ in _leaves(model)}
    said = {name: value for name, value in flags.items() if value not in (None, ())}
    given: dict[str, Any] = {"host": load_settings().host, **(below or {}), **said}
    nested: dict[str, Any] = {}
    for name, value in given.items():
        *groups, leaf = paths.get(name, (name,))
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = list(value) if isinstance(value, tuple) else value
    try:
        parameters = model.model_validate(nested)
    except ValidationError as error:
        problems = [_problem(problem, set(said), file, sorted(paths)) for problem in error.errors()]
        raise click.UsageError("; ".join(problems)) from error
    placement: Placement = parameters.trains_on  # type: ignore[attr-defined]
    check_placement(placement)
    about_renting = [f"--{name.replace('_', '-')}" for name in RentalRequest.model_fields if name in said]
    if about_renting and placement.provider is None:
        rented = f"; --host {PROVIDERS[0]} would rent one" if placement.host == (LOCAL,) else ""
        raise click.UsageError(f"{', '.join(about_renting)}: no machine is rented here{rented}")
    tracks(getattr(parameters, "track", None))
    return parameters


def _problem(problem: Any, flags: set[str], file: str, known: list[str]) -> str:
    told = problem["msg"].removeprefix("Value error, ")
    names = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden" and names[-1] in REPLACED:
        return f"{file}: {names[-1]} is no more: {REPLACED[names[-1]].replace('--host', 'host').replace('--', '')}"
    if problem["type"] == "extra_forbidden":
        return f"{file}: unknown key {names[-1]}; known: {', '.join(known)}"
    # The last of the names that is a field's: what follows are places in a list.
    name = next((name for name in reversed(names) if name in known), None)
    if name is None:
        return f"{file}: {told}" if file else told
    if problem["type"] == "missing":
        return f"--{name.replace('_', '-')} is missing"
    where = f"--{name.replace('_', '-')}" if not file or name in flags else f"{file}: {'.'.join(names)}"
    return f"{where}: {told} (given: {problem['input']!r})"


def _option(name: str, field: FieldInfo, schema: dict[str, Any]) -> click.Option:
    flag = f"--{name.replace('_', '-')}"
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    default = schema.get("default")
    if kinds[0].get("type") == "boolean":
        shown = "  [default: on]" if default else ""
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=f"{field.description}{shown}")
    several = kinds[0].get("type") == "array"
    limits = [f"{sign} {kind[word]}" for kind in kinds for word, sign in _SIGNS.items() if word in kind]
    shown = f"  [{', '.join(limits)}]" if limits else ""
    if default not in (None, []):
        shown += f"  [default: {', '.join(default) if several else default}]"
    choices = [
        choice
        for kind in kinds
        for choice in [*kind.get("enum", [kind["const"]] if "const" in kind else []), *kind.get("examples", [])]
    ]
    if kinds[0].get("type") in {"integer", "number"}:
        choices.insert(0, "NUMBER")
    metavar = "|".join(choices) if choices else name.upper()
    return click.Option([flag, name], multiple=several, help=f"{field.description}{shown}", metavar=metavar)


def _refusing(name: str, instead: str) -> click.Option:
    flag = f"--{name.replace('_', '-')}"

    def refuse(context: click.Context, option: click.Parameter, value: Any) -> None:  # noqa: ARG001 - click's order
        if value:
            raise click.UsageError(f"{flag} is no more: {instead}", context)

    is_flag = name == "parallel_arms"
    return click.Option([flag], is_flag=is_flag, hidden=True, expose_value=False, callback=refuse, default=None)
