"""The feature sets in torch alone, for models that leave as one graph; tests hold them to `core.features` bar by bar.

What a bar's features need of earlier bars beyond a fixed number of them is a scan, one node of the graph however long
the window is.

Legend: N windows, T bars, F features, P = T + 1 points of the price path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jade_model.core.errors import ConfigError
from jade_model.core.features import displacement, feature_set, relativity, zigzag
from jade_model.core.features.sets import POSITION_NAME

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], list[Tensor]]


def torch_features(name: str, bars_NT4: Tensor) -> Tensor:
    """Compute a feature set of every bar, float32 [N, T, F], as `FeatureSet.compute` does.

    Args:
        name: Of the set.
        bars_NT4: Open, high, low, close, float64.

    Raises:
        ConfigError: There is no such set, or none in torch.
    """
    names, base = feature_set(name).names, name.removesuffix("+position")
    if base not in _KERNELS:
        raise ConfigError(f"the features {name} have no form in torch, so that a model of them cannot be exported")
    columns = _KERNELS[base](*bars_NT4.transpose(0, 1).unbind(2))
    if names[-1] == POSITION_NAME:
        num_bars = bars_NT4.shape[1]
        position_T = torch.arange(num_bars, dtype=bars_NT4.dtype) / max(num_bars - 1, 1)
        columns = [*columns, position_T[:, None].expand_as(columns[0])]
    return torch.stack(columns, 2).transpose(0, 1).float()


def mirrored(bars_NT4: Tensor) -> Tensor:
    """Turn windows upside down, as `mirror_bars` does."""
    return torch.stack([-bars_NT4[..., at] for at in (0, 2, 1, 3)], -1)


def _displacement(open_TN: Tensor, high_TN: Tensor, low_TN: Tensor, close_TN: Tensor) -> list[Tensor]:
    # All lags at once: an exporter's time goes with the number of operations.
    lags = displacement.RETURN_LAGS
    lag_L1, bars_T = torch.tensor(lags)[:, None], torch.arange(close_TN.shape[0])
    path_PN = torch.cat([open_TN[:1], close_TN])
    step_TN = (path_PN[1:] - path_PN[:-1]).abs()
    atr_TN = _floored_atr(high_TN, low_TN, close_TN, path_PN[:-1])
    before_LTN = atr_TN[torch.maximum(bars_T - lag_L1, bars_T.clamp_max(displacement.ATR_BARS - 1))]
    net_LTN = close_TN - path_PN[(bars_T + 1 - lag_L1).clamp_min(0)]
    root_LT = torch.minimum(bars_T + 1, lag_L1).to(close_TN.dtype).sqrt()
    return_LTN = net_LTN / (before_LTN * root_LT[:, :, None])
    travelled_LTN = torch.stack([_band(len(bars_T), lag).to(close_TN.dtype) for lag in lags]) @ step_TN
    moved_LTN = travelled_LTN > 0
    ratio_LTN = net_LTN / torch.where(moved_LTN, travelled_LTN, torch.ones_like(travelled_LTN))
    efficiency_LTN = torch.where(moved_LTN, ratio_LTN, torch.zeros_like(ratio_LTN)).clamp(-1, 1)
    shape_2TN = torch.stack([close_TN - open_TN, high_TN - low_TN]) / before_LTN[lags.index(1)]
    straight = torch.tensor([lags.index(lag) for lag in displacement.EFFICIENT_RETURN_LAGS])
    efficient = torch.tensor([lags.index(lag) for lag in displacement.EFFICIENCY_LAGS])
    limit = displacement.LIMIT
    columns_FTN = torch.cat(
        [
            shape_2TN.clamp(-limit, limit),
            return_LTN.clamp(-limit, limit),
            efficiency_LTN[efficient],
            (return_LTN[straight] * efficiency_LTN[straight].abs()).clamp(-limit, limit),
        ]
    )
    return list(columns_FTN.unbind(0))


def _band(num_bars: int, lag: int) -> Tensor:
    """Return which bars are among the last `lag` ones of each bar, bool [T, T]."""
    age_TT = torch.arange(num_bars)[:, None] - torch.arange(num_bars)
    return (age_TT >= 0) & (age_TT < lag)


def _path(open_TN: Tensor, high_TN: Tensor, low_TN: Tensor, close_TN: Tensor) -> list[Tensor]:
    path_PN = torch.cat([open_TN[:1], close_TN])
    first_N = open_TN[0]
    size_N = torch.where(first_N != 0, first_N.abs(), torch.ones_like(first_N))
    travelled_TN = (path_PN[1:] - path_PN[:-1]).abs().cumsum(0)
    atr_TN = _floored_atr(high_TN, low_TN, close_TN, path_PN[:-1])
    return [(open_TN - first_N) / size_N, (close_TN - first_N) / size_N, travelled_TN / size_N, atr_TN / size_N]


def _relativity(open_TN: Tensor, high_TN: Tensor, low_TN: Tensor, close_TN: Tensor) -> list[Tensor]:
    num_bars = close_TN.shape[0]
    range_TN = high_TN - low_TN
    divisor_TN = range_TN.clamp_min(relativity.MIN_RANGE)
    body_TN = ((close_TN - open_TN) / divisor_TN).clamp(-1, 1)
    range_z_TN = (range_TN / _ema(range_TN).clamp_min(relativity.MIN_RANGE)).clamp(0, 3)
    true_range_TN = torch.cat([torch.zeros_like(close_TN[:1]), _true_range(high_TN[1:], low_TN[1:], close_TN[:-1])])
    count_T = torch.arange(num_bars).clamp(1, zigzag.ATR_BARS).to(close_TN.dtype)
    atr_TN = _trailing_sum(true_range_TN, zigzag.ATR_BARS) / count_T[:, None]
    direction_TN, swing_high_TN, swing_low_TN, since_high_TN, since_low_TN = _swings(high_TN, low_TN, close_TN, atr_TN)
    atr_TN = torch.where(atr_TN > 0, atr_TN, torch.full_like(atr_TN, zigzag.ATR_IN_PLACE_OF_ZERO))
    since_high_TN, since_low_TN = _known(since_high_TN / num_bars, 0, 3), _known(since_low_TN / num_bars, 0, 3)
    return [
        ((open_TN - low_TN) / divisor_TN).clamp(0, 1),
        ((close_TN - low_TN) / divisor_TN).clamp(0, 1),
        body_TN,
        ((high_TN - torch.maximum(open_TN, close_TN)) / divisor_TN).clamp(0, 1),
        ((torch.minimum(open_TN, close_TN) - low_TN) / divisor_TN).clamp(0, 1),
        range_z_TN,
        _known((swing_high_TN - close_TN) / atr_TN, -3, 3),
        _known((close_TN - swing_low_TN) / atr_TN, -3, 3),
        since_high_TN,
        since_low_TN,
        (range_z_TN * direction_TN * body_TN).clamp(-2, 2),
        ((1 - range_z_TN / 3) * (1 - body_TN.abs()) * (since_high_TN + since_low_TN) / 2).clamp(0, 3),
    ]


def _swings(high_TN: Tensor, low_TN: Tensor, close_TN: Tensor, atr_TN: Tensor) -> list[Tensor]:
    """Follow the legs, as `zigzag.causal_zigzag` does: direction, swing high and low, bars since each, [T, N]."""
    divisor_TN = torch.where(atr_TN > 0, atr_TN, torch.full_like(atr_TN, zigzag.ATR_IN_PLACE_OF_ZERO))
    bar_TN = torch.arange(close_TN.shape[0], dtype=close_TN.dtype)[:, None].expand_as(close_TN)
    given_TNG = torch.stack([high_TN, low_TN, close_TN, atr_TN, divisor_TN, bar_TN], 2)

    def step(state: tuple[Tensor, ...], given_NG: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        direction, extreme, extreme_bar, candidate, candidate_bar, swing_high, high_bar, swing_low, low_bar = state
        high, low, close, atr, divisor, bar = given_NG.unbind(1)
        follows, is_up = direction != 0, direction > 0
        near, far = torch.where(is_up, high, -low), torch.where(is_up, low, -high)
        grows = follows & (near > extreme)
        extreme, extreme_bar = torch.where(grows, near, extreme), torch.where(grows, bar, extreme_bar)
        grows = follows & (near > candidate)
        candidate, candidate_bar = torch.where(grows, near, candidate), torch.where(grows, bar, candidate_bar)
        confirmed = extreme - direction * close >= zigzag.RETRACE_ATR * divisor
        is_young = candidate_bar >= bar - zigzag.CANDIDATE_MAX_AGE_BARS
        confirmed = confirmed | ((candidate - far >= zigzag.CANDIDATE_RETRACE_ATR * divisor) & is_young)
        confirmed = confirmed & follows
        is_high, is_low = confirmed & is_up, confirmed & ~is_up
        swing_high, high_bar = torch.where(is_high, extreme, swing_high), torch.where(is_high, extreme_bar, high_bar)
        swing_low, low_bar = torch.where(is_low, -extreme, swing_low), torch.where(is_low, extreme_bar, low_bar)
        starts = ~follows & (atr > 0)
        direction = torch.where(starts, torch.ones_like(close), torch.where(confirmed, -direction, direction))
        extreme = torch.where(starts, close, torch.where(confirmed, -far, extreme))
        extreme_bar = torch.where(starts | confirmed, bar, extreme_bar)
        candidate, candidate_bar = torch.where(confirmed, -far, candidate), torch.where(confirmed, bar, candidate_bar)
        told = torch.stack([direction, swing_high, swing_low, bar - high_bar, bar - low_bar], 1)
        state = (direction, extreme, extreme_bar, candidate, candidate_bar, swing_high, high_bar, swing_low, low_bar)
        return state, told

    zero_N = torch.zeros_like(close_TN[0])
    never_N, unknown_N = torch.full_like(zero_N, -torch.inf), torch.full_like(zero_N, torch.nan)
    start = (zero_N, never_N, zero_N, never_N, zero_N, unknown_N, unknown_N, unknown_N, unknown_N)
    return list(scan(step, tuple(value.clone() for value in start), given_TNG).unbind(2))


def scan(step: Callable[..., Any], start: Any, given_T: Tensor, *, reverse: bool = False) -> Tensor:
    """Carry a state along the first dimension; return what each step says, stacked.

    Raises:
        ConfigError: This torch has no scan.
    """
    try:
        from torch._higher_order_ops.scan import scan as torch_scan
    except ImportError as error:
        raise ConfigError(f"torch {torch.__version__} cannot export loops over bars; 2.9 or newer can") from error
    told: Tensor = torch_scan(step, start, given_T, dim=0, reverse=reverse)[1]
    return told


def _ema(values_TN: Tensor) -> Tensor:
    alpha = relativity.RANGE_EMA_ALPHA

    def step(mean_N: Tensor, value_N: Tensor) -> tuple[Tensor, Tensor]:
        mean_N = alpha * value_N + (1 - alpha) * mean_N
        return mean_N, mean_N.clone()

    return torch.cat([values_TN[:1], scan(step, values_TN[0].clone(), values_TN[1:])])


def _known(values_TN: Tensor, low: float, high: float) -> Tensor:
    return torch.where(values_TN.isnan(), torch.zeros_like(values_TN), values_TN.clamp(low, high))


def _true_range(high_TN: Tensor, low_TN: Tensor, previous_close_TN: Tensor) -> Tensor:
    beyond_TN = torch.maximum((high_TN - previous_close_TN).abs(), (low_TN - previous_close_TN).abs())
    return torch.maximum(high_TN - low_TN, beyond_TN)


def _trailing_sum(values_TN: Tensor, num_bars: int) -> Tensor:
    return _band(values_TN.shape[0], num_bars).to(values_TN.dtype) @ values_TN


def _floored_atr(high_TN: Tensor, low_TN: Tensor, close_TN: Tensor, previous_close_TN: Tensor) -> Tensor:
    true_range_TN = _true_range(high_TN, low_TN, previous_close_TN)
    count_T1 = torch.arange(1, close_TN.shape[0] + 1, dtype=close_TN.dtype)[:, None]
    mean_so_far_TN = true_range_TN.cumsum(0) / count_T1
    atr_TN = _trailing_sum(true_range_TN, displacement.ATR_BARS) / count_T1.clamp_max(displacement.ATR_BARS)
    floor_TN = torch.maximum(
        displacement.FLOOR_OF_MEAN_RANGE * mean_so_far_TN, displacement.FLOOR_OF_PRICE * close_TN.abs()
    )
    return torch.maximum(atr_TN, floor_TN)


_KERNELS: dict[str, Kernel] = {
    "displacement-17": _displacement,
    "displacement-21": lambda *bars: [*_path(*bars), *_displacement(*bars)],
    "relativity-12": _relativity,
}
