"""AdamW without what torch's class brings along.

With its first step an optimiser of torch imports the compiler, too, and that takes longer than a short training: 1.5
seconds in every process that trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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

    Attributes:
        moments: Of each parameter: `step`, `exp_avg` and `exp_avg_sq`, all on its device.
    """

    def __init__(self, parameters: Iterable[Tensor], *, learning_rate: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.weight_decay = weight_decay
        self.moments = [
            {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            for parameter in self.parameters
        ]
        device = self.parameters[0].device
        # A CUDA graph replays the address of a learning rate, not its value.
        self._rate: float | Tensor = learning_rate
        if device.type != "cpu":
            self._rate = torch.tensor(learning_rate, device=device)

    def set_learning_rate(self, value: float) -> None:
        """Set that of the next steps; nothing waits for the device."""
        if isinstance(self._rate, Tensor):
            self._rate.fill_(value)
        else:
            self._rate = value

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter that has a gradient."""
        used = [
            (parameter, parameter.grad, moments)
            for parameter, moments in zip(self.parameters, self.moments, strict=True)
            if parameter.grad is not None
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
            lr=self._rate,
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
