"""What the flows that train have in common as flows of Prefect: parameters, name, and who frees machines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from prefect import Flow, flow
from pydantic import BaseModel

from flows.parameters import fields_of
from flows.reap import free_machines
from tasks.operations.flow_runs import prefect_run, run_name

ModelT = TypeVar("ModelT", bound=BaseModel)


def training_flow(model: type[ModelT], **options: Any) -> Callable[[Callable[[ModelT], str]], Flow[..., str]]:
    """Make a function of parameters a flow of its name, which frees what was rented for a run however that ends.

    Args:
        model: The one argument of the function that is decorated.
        options: Further ones of Prefect's `flow`.
    """

    def decorate(function: Callable[[ModelT], str]) -> Flow[..., str]:
        name = function.__name__
        made: Flow[..., str] = flow(
            name=name,
            flow_run_name=partial(run_name, name),
            on_failure=[free_machines],
            on_crashed=[free_machines],
            on_cancellation=[free_machines],
            **options,
        )(prefect_run(taking(model)(function)))
        return made

    return decorate


def taking(model: type[ModelT]) -> Callable[[Callable[[ModelT], str]], Callable[..., str]]:
    """Give a flow the fields of a model as its parameters, one by one.

    Prefect puts a run's parameters over its deployment's by their names: so one of them is overridden alone, and the
    deployment's data stay what they are. What is given is checked as the model checks it.

    Args:
        model: The one argument of the function that is decorated.
    """

    def decorate(function: Callable[[ModelT], str]) -> Callable[..., str]:
        defaults = {name: field.get_default() for name, field in fields_of(model).items()}

        def flow_function(**given: Any) -> str:
            # Prefect fills in defaults; a model tells what was said from what was not.
            said = {name: value for name, value in given.items() if value != defaults.get(name, ...)}
            return function(model.model_validate(said))

        told = "".join(f"    {name}: {field.description}\n" for name, field in fields_of(model).items())
        flow_function.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:\n{told}"
        for name in ("__name__", "__qualname__", "__module__"):
            setattr(flow_function, name, getattr(function, name))
        flow_function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=inspect.Parameter.empty if field.is_required() else field.get_default(),
                    annotation=Annotated[field.annotation, field],
                )
                for name, field in fields_of(model).items()
            ],
            return_annotation=str,
        )
        return flow_function

    return decorate
