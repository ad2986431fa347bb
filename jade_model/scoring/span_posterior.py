"""Span scores -> what the model believes: probabilities, best labelling, and values read off them.

Legend: B windows, T bars, K span scores a bar, M models of an ensemble.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from jade_model.core.network import JadeCompact
from jade_model.core.targets import COUNTDOWN_LIMIT


class SpanPosterior(NamedTuple):
    """What models believe about the spans of B windows.

    Attributes:
        probability_BT: P(bar in a span), float64.
        path_BT: The most probable joint labelling, bool.
        margin_B: log P(path_BT) - log P(no span), nats, float64; 0 where the path is empty.
    """

    probability_BT: Tensor
    path_BT: Tensor
    margin_B: Tensor


@torch.no_grad()
def span_posterior(models: Sequence[JadeCompact], scores: Sequence[Tensor], temperature: float) -> SpanPosterior:
    """Return what one model, or an ensemble, believes at a temperature.

    Probabilities are averaged over the models. The joint labelling is that of their geometric mean: of the
    averaged scores, since an average of distributions over paths has no path that could be found in linear
    time.

    Args:
        models: M models of one loss.
        scores: Each model's span scores [B, T, K], float64, on the CPU.
        temperature: What all scores, transitions and biases included, are divided by, > 0.
    """
    parts = [_of_one(model, scores_BTK, temperature) for model, scores_BTK in zip(models, scores, strict=True)]
    if len(parts) == 1:
        return parts[0]
    probability_BT = torch.stack([part.probability_BT for part in parts]).mean(0)
    if models[0].loss == "soft_span":
        return _independent(torch.logit(probability_BT))
    merged = _of_one(_averaged(models), torch.stack(list(scores)).mean(0), temperature)
    return merged._replace(probability_BT=probability_BT)


def posterior_pointers(probability_BT: Tensor) -> Tensor:
    """Read the span's centre and length off its bars' probabilities.

    Args:
        probability_BT: P(bar in a span), float64.

    Returns:
        Centre: the bar at which half of the probability is reached, interpolated, which a bar far off with
            a little
        probability hardly moves. Length: last minus first bar, the expected number of bars less one. Both as
        fractions of T, as the targets are, [B, 2].
    """
    num_bars = probability_BT.shape[1]
    mass_BT = probability_BT.cumsum(1)
    total_B1 = mass_BT[:, -1:]
    half_B1 = (total_B1 / 2).contiguous()
    bar_B1 = torch.searchsorted(mass_BT, half_B1).clamp_max(num_bars - 1)
    here_B1 = probability_BT.gather(1, bar_B1)
    before_B1 = mass_BT.gather(1, bar_B1) - here_B1
    # A bar's probability is spread evenly from half a bar before its index to half a bar after it.
    share_B1 = torch.where(here_B1 > 0, (half_B1 - before_B1) / here_B1.clamp_min(1e-300), 0.5)
    centre_B1 = bar_B1 - 0.5 + share_B1
    return torch.cat([centre_B1, (total_B1 - 1).clamp_min(0)], 1) / num_bars


def posterior_countdown(pointers_B2: Tensor, num_bars: int) -> Tensor:
    """Return bars until the span starts, clipped as the targets are, [B, T], from its centre and length."""
    start_B1 = (pointers_B2[:, :1] - pointers_B2[:, 1:] / 2) * num_bars
    bars_T = torch.arange(num_bars, dtype=pointers_B2.dtype)
    return (start_B1 - bars_T).clamp(-COUNTDOWN_LIMIT, COUNTDOWN_LIMIT)


def _of_one(model: JadeCompact, scores_BTK: Tensor, temperature: float) -> SpanPosterior:
    if model.crf is not None:
        # One division of everything: the best path does not depend on it, its margin does.
        probability_BT = model.crf.marginals(scores_BTK, temperature=temperature)[..., 1]
        path = model.crf.viterbi(scores_BTK)
        return SpanPosterior(probability_BT, path.paths_BT == 1, path.margin_B / temperature)
    if model.single_span is not None:
        probability_BT = model.single_span.marginals(scores_BTK, temperature).in_span_BT
        best = model.single_span.best(scores_BTK, temperature)
        return SpanPosterior(probability_BT, best.path_BT, best.margin_B)
    return _independent(scores_BTK.squeeze(-1) / temperature)


def _independent(logits_BT: Tensor) -> SpanPosterior:
    return SpanPosterior(torch.sigmoid(logits_BT), logits_BT > 0, logits_BT.clamp_min(0).sum(1))


def _averaged(models: Sequence[JadeCompact]) -> JadeCompact:
    """Return a model whose span head's own parameters (transitions, biases) are the models' means."""
    averaged = copy.deepcopy(models[0]).cpu()
    states = [model.state_dict() for model in models]
    means = {
        name: torch.stack([state[name].cpu() for state in states]).mean(0)
        for name in states[0]
        if name.startswith(("crf.", "single_span."))
    }
    averaged.load_state_dict(means, strict=False)
    return averaged
