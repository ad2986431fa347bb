"""Arms of one's own: a user's module with span heads, held against the contract of the seam and put beside ours.

A module is code: it is run only where somebody names its file, never because a run, a checkpoint or a job speaks of it.

Legend: B windows, T bars, K span scores a bar.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from jade_model.core.config import LOSSES, SPAN_HEADS, DecoderName, ModelConfig, SpanHeadEntry, TrainingConfig
from jade_model.core.errors import ConfigError
from jade_model.core.losses import Labels
from jade_model.core.span_heads.base import SpanHead, SpanPosterior

TRAVELS = ("torch", "numpy", "jade_model.core")
"""What a module may import beside Python's own library: a host has no more."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_NUM_WINDOWS, _NUM_BARS = 4, 24
_SPANS = ((0, 0), (3, 9), (0, 1), (20, 24))
"""Of the windows that a head is tried on: none, one inside, one at each edge."""


def load_arms(path: Path) -> tuple[str, ...]:
    """Run a module of one's own and make its arms known to this process, beside Jade's.

    Args:
        path: A Python file with `ARMS = {"name": Head}`, each head a `SpanHead`.

    Returns:
        The arms' names, in the module's order.

    Raises:
        ConfigError: There is no such file, it cannot be imported or needs what a host has not, or a head breaks the
            contract; the message says what was found and what the contract says.
    """
    try:
        source = path.expanduser().read_bytes()
        tree = ast.parse(source, str(path))
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"--arm-module {path}: cannot be read as Python: {error}") from error
    _check_imports(path, tree)
    digest = hashlib.sha256(source).hexdigest()
    name = f"jade_arms_{digest[:16]}"
    known = tuple(arm for arm, entry in SPAN_HEADS.items() if entry.sha256 == digest and entry.implementation)
    if name in sys.modules and known:
        return known
    arms = _run(path, name, source)
    entries = {arm: _entry(path, arm, head, digest) for arm, head in arms.items()}
    SPAN_HEADS.update(entries)
    return tuple(entries)


def _check_imports(path: Path, tree: ast.Module) -> None:
    """Refuse what would run here and fail on a host, where this file lies alone beside `jade_model.core`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                wanted = [item.name for item in names]
            case ast.ImportFrom(module=module, level=level):
                wanted = ["." * level + (module or "")]
            case _:
                continue
        for item in wanted:
            is_ours = any(item == allowed or item.startswith(f"{allowed}.") for allowed in TRAVELS)
            if not is_ours and item.partition(".")[0] not in sys.stdlib_module_names:
                raise ConfigError(
                    f"--arm-module {path}, line {node.lineno}: imports {item}; an arm trains on hosts that have "
                    f"Python, {', '.join(TRAVELS)} and this one file"
                )


def _run(path: Path, name: str, source: bytes) -> dict[str, Any]:
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    assert spec is not None  # noqa: S101 - it is made of a name
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - the user's own file, named by the user
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"--arm-module {path}: cannot be imported: {type(error).__name__}: {error}") from error
    arms = getattr(module, "ARMS", None)
    if not (isinstance(arms, dict) and arms):
        del sys.modules[name]
        raise ConfigError(f'--arm-module {path}: no ARMS; expected ARMS = {{"name": Head}}, one for each arm')
    return arms


def _entry(path: Path, arm: Any, head: Any, digest: str) -> SpanHeadEntry:
    what = f"--arm-module {path}: arm {arm!r}"
    if not (isinstance(arm, str) and _NAME.fullmatch(arm)):
        raise ConfigError(f"{what}: a name is small letters, digits and _, starts with a letter, 40 at most")
    if arm in LOSSES:
        raise ConfigError(f"{what} has the name of one of Jade's own; give it another")
    if not (isinstance(head, type) and issubclass(head, SpanHead)):
        raise ConfigError(f"{what} is {head!r}; expected a subclass of jade_model.core.span_heads.SpanHead")
    if missing := sorted(getattr(head, "__abstractmethods__", ())):
        raise ConfigError(f"{what}: {head.__name__} has no {', '.join(missing)}; a SpanHead defines each of them")
    decoders = tuple(getattr(head, "decoders", SpanHeadEntry("").decoders))
    unknown = [name for name in decoders if name not in get_args(DecoderName)]
    if unknown or "one_span" not in decoders or not {"threshold", "marginal"} & set(decoders):
        raise ConfigError(
            f"{what}: decoders are {decoders}; expected some of {get_args(DecoderName)}, one_span and one of threshold "
            "and marginal among them: arms are judged by these"
        )
    check_head(head, what)
    return SpanHeadEntry(
        f"{head.__module__}:{head.__qualname__}",
        decoders,
        models_spans=bool(getattr(head, "models_spans", False)),
        sha256=digest,
    )


def check_head(head: type[SpanHead], what: str) -> None:
    """Hold a head against what `SpanHead` asks for, on a few windows.

    Args:
        head: The class.
        what: How messages begin.

    Raises:
        ConfigError: It breaks the contract; the message says where, what was found and what was expected.
    """
    number = getattr(head, "scores_per_bar", None)
    if not (isinstance(number, int) and number >= 1):
        raise ConfigError(f"{what}: scores_per_bar is {number!r}; expected a whole number from 1 on")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        scores_BTK = torch.randn(_NUM_WINDOWS, _NUM_BARS, number)
        for part, check in _checks(head, scores_BTK):
            try:
                wrong = check()
            except Exception as error:
                raise ConfigError(f"{what}: {part} raised {type(error).__name__}: {error}") from error
            if wrong:
                raise ConfigError(f"{what}: {part}: {wrong}")


def _checks(head: type[SpanHead], scores_BTK: Tensor) -> Iterator[tuple[str, Callable[[], str]]]:
    """Give each check by what it is of; it returns what is wrong, or nothing."""
    config, training, labels = ModelConfig(), TrainingConfig(), _labels()
    made: list[SpanHead] = []

    def is_made() -> str:
        made.append(head.of(config))
        made.append(head.of(config))
        if type(made[0]) is not head:
            return f"found {type(made[0]).__name__}; expected a {head.__name__}: a fresh head for a network"
        made[1].load_state_dict(made[0].state_dict())
        return ""

    def loses() -> str:
        given_BTK = scores_BTK.clone().requires_grad_()
        loss_B = made[0].loss(given_BTK, labels, training)
        if wrong := _shape(loss_B, (_NUM_WINDOWS,), "each window's loss"):
            return wrong
        loss_B.sum().backward()  # type: ignore[no-untyped-call]
        if not bool(torch.isfinite(loss_B).all()):
            return f"found {loss_B.tolist()}; expected finite numbers"
        if given_BTK.grad is None or not bool(torch.isfinite(given_BTK.grad).all()) or not bool(given_BTK.grad.any()):
            return "no finite gradient reaches the scores, so that nothing would be learned"
        half = Labels(*(part[:2] for part in labels))
        if not torch.allclose(made[0].loss(scores_BTK[:2], half, training), loss_B[:2], atol=1e-4):
            return "a window's loss depends on the other windows of its batch; expected each on its own"
        return ""

    def marks() -> str:
        return _probabilities(made[0].in_span(scores_BTK))

    def believes(temperature: float) -> str:
        scores = scores_BTK.double()
        found: Any = made[0].posterior(scores, temperature)
        if not isinstance(found, SpanPosterior):
            return f"found {type(found).__name__}; expected a SpanPosterior"
        if wrong := _probabilities(found.probability_BT) or _shape(found.margin_B, (_NUM_WINDOWS,), "margin_B"):
            return wrong
        if found.probability_BT.requires_grad or found.margin_B.requires_grad:
            return "its values still require gradients; expected none (@torch.no_grad())"
        if found.path_BT.dtype != torch.bool or tuple(found.path_BT.shape) != tuple(scores.shape[:2]):
            return f"path_BT is {found.path_BT.dtype} {tuple(found.path_BT.shape)}; expected bool [windows, bars]"
        if bool((found.margin_B < 0).any()) or bool(found.margin_B[~found.path_BT.any(1)].any()):
            return f"margin_B is {found.margin_B.tolist()}; expected at least 0, and 0 where the path is empty"
        again = made[1].posterior(scores, temperature).probability_BT
        if not torch.allclose(again, found.probability_BT, atol=1e-5):
            return "a head with the same parameters says something else; all that it learns must be in its state dict"
        return ""

    yield "of", is_made
    yield "start_from", lambda: made[0].start_from(labels.num_spans_B) or ""  # type: ignore[func-returns-value]
    yield "loss", loses
    yield "of", lambda: made[1].load_state_dict(made[0].state_dict()) and ""
    yield "in_span", marks
    yield "posterior", lambda: believes(1.0)
    yield "posterior at temperature 2", lambda: believes(2.0)


def _shape(found: Any, expected: tuple[int, ...], what: str) -> str:
    if isinstance(found, Tensor) and tuple(found.shape) == expected and found.is_floating_point():
        return ""
    seen = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    return f"found {seen}; expected floats {list(expected)}: {what}"


def _probabilities(found: Any) -> str:
    if wrong := _shape(found, (_NUM_WINDOWS, _NUM_BARS), "P(bar in a span)"):
        return wrong
    if not bool(((found >= 0) & (found <= 1)).all()):
        low, high = float(found.detach().min()), float(found.detach().max())
        return f"found values from {low:g} to {high:g}; expected probabilities"
    return ""


def _labels() -> Labels:
    span_B12 = torch.tensor(_SPANS)[:, None]
    bars_T = torch.arange(_NUM_BARS)
    in_span_BT = (bars_T >= span_B12[:, :, 0]) & (bars_T < span_B12[:, :, 1])
    num_spans_B = in_span_BT.any(1).long()
    return Labels(
        weight_B=torch.ones(_NUM_WINDOWS),
        in_span_BT=in_span_BT.long(),
        pointers_B2=torch.full((_NUM_WINDOWS, 2), 0.5),
        countdown_BT=torch.zeros(_NUM_WINDOWS, _NUM_BARS),
        type_B=torch.zeros(_NUM_WINDOWS, dtype=torch.long),
        span_BM2=span_B12,
        num_spans_B=num_spans_B,
    )
