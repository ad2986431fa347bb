"""The optimiser is torch's AdamW to the bit, and brings no compiler along."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from jade_model.core.adamw import AdamW

TRAIN = """
import sys
import torch
from jade_model.core.adamw import AdamW

weight = torch.ones(3, requires_grad=True)
optimizer = AdamW([weight], learning_rate=0.1, weight_decay=0.0)
weight.sum().backward()
optimizer.step()
print(weight.tolist() != [1.0] * 3, "torch._dynamo" in sys.modules)
"""


def parameters() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 3), (3,), (2, 5))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("factors", [None, [1.0, 8.0, 1.0], [1.0, 1.0, 8.0]])
def test_it_steps_as_torchs_does_whatever_has_a_gradient_and_goes_on_from_its_moments(factors) -> None:
    ours, theirs = parameters(), parameters()
    settings = {"learning_rate": 0.1, "weight_decay": 0.05, "rate_factors": factors}
    optimizer = AdamW(ours, **settings)
    groups = [{"params": [value], "lr": 0.1} for value in theirs]
    reference = torch.optim.AdamW(groups, weight_decay=0.05, fused=True)
    for step in range(8):
        if step == 4:
            moments = dict(enumerate(optimizer.moments))
            optimizer = AdamW(ours, **settings)
            optimizer.load(moments)
        optimizer.set_learning_rate(0.1 / (1 + step))
        for group, factor in zip(reference.param_groups, factors or [1, 1, 1], strict=True):
            group["lr"] = factor * (0.1 / (1 + step))
        for each, all_of_them in ((optimizer, ours), (reference, theirs)):
            each.zero_grad()
            # The last has a gradient now and then only.
            used = all_of_them[: 3 if step % 3 else 2]
            torch.stack([(value**3).sum() for value in used]).sum().backward()
            each.step()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    for number, moments in reference.state_dict()["state"].items():
        torch.testing.assert_close(optimizer.moments[number], moments, rtol=0, atol=0)


def test_loading_nothing_starts_anew() -> None:
    (weight,) = values = [torch.ones(2, requires_grad=True)]
    optimizer = AdamW(values, learning_rate=0.1, weight_decay=0.0)
    weight.sum().backward()
    optimizer.step()
    optimizer.load({})
    assert all(not moment.any() for moment in optimizer.moments[0].values())


def test_a_step_imports_no_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
