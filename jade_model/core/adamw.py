"""AdamW without what torch's class brings along.

With its first step an optimiser of torch imports the compiler, too, and that takes longer than a short training: 1.5
seconds in every process that trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS, EPS = (0.9, 0.999), 1e-8
"""As torch.optim.AdamW has them."""


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter, 2019), by torch's fused kernel: torch.optim.AdamW(fused=True).

    Args:
        parameters: What it changes.
        learning_rate: At first.
        weight_decay: Share of a weight that a step takes off, a unit of learning rate.
        rate_factors: What the learning rate is multiplied by for each parameter; 1 for all if None.

    Attributes:
        moments: Of each parameter: `step`, `exp_avg` and `exp_avg_sq`, all on its device.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        learning_rate: float,
        weight_decay: float,
        rate_factors: Sequence[float] | None = None,
    ) -> None:
        self.parameters = list(parameters)
        self.rate_factors = [1.0] * len(self.parameters) if rate_factors is None else list(rate_factors)
        self.weight_decay = weight_decay
        self.moments = [
            {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            for parameter in self.parameters
        ]
        self._rates: dict[float, float | Tensor] = {factor: factor * learning_rate for factor in self.rate_factors}
        device = self.parameters[0].device
        if device.type != "cpu":
            self.keep_rates_on(device)

    def keep_rates_on(self, device: torch.device) -> None:
        """Hold learning rates in tensors: a CUDA graph replays the address of one, not its value."""
        self._rates = {factor: torch.tensor(rate, device=device) for factor, rate in self._rates.items()}

    def set_learning_rate(self, value: float) -> None:
        """Set that of the next steps; nothing waits for the device."""
        for factor, rate in self._rates.items():
            if isinstance(rate, Tensor):
                rate.fill_(factor * value)
            else:
                self._rates[factor] = factor * value

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter that has a gradient."""
        for factor, rate in self._rates.items():
            self._step(factor, rate)

    def _step(self, of_factor: float, rate: float | Tensor) -> None:
        used = [
            (parameter, parameter.grad, moments)
            for parameter, factor, moments in zip(self.parameters, self.rate_factors, self.moments, strict=True)
            if factor == of_factor and parameter.grad is not None
        ]
        adamw(
            [parameter for parameter, _, _ in used],
            [grad for _, grad, _ in used],
            [moments["exp_avg"] for _, _, moments in used],
            [moments["exp_avg_sq"] for _, _, moments in used],
            [],
            [moments["step"] for _, _, moments in used],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=self.weight_decay,
            eps=EPS,
            maximize=False,
        )

    @torch.no_grad()
    def load(self, moments: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Go on from another's moments, by the parameter's number; those of the others are those of the start."""
        for number, ours in enumerate(self.moments):
            for name, value in ours.items():
                if number in moments:
                    value.copy_(moments[number][name])
                else:
                    value.zero_()
