from __future__ import annotations

import pytest
import torch

from jade_model.core.pick import indexed, pick


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 5), (0, 5)])
def test_a_gpus_way_takes_what_gather_takes_with_the_same_gradient(shape):
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=draw, dtype=torch.float64)
    places = torch.randint(5, (*shape[:-1], 7), generator=draw)
    weight = torch.randn(places.shape, generator=draw, dtype=torch.float64)
    found = []
    for take in (pick, indexed):
        given = values.clone().requires_grad_()
        taken = take(given, places)
        (taken * weight).sum().backward()
        found.append((taken.detach(), given.grad))
    torch.testing.assert_close(found[1], found[0])


def test_places_and_values_need_not_lie_in_a_row():
    values = torch.arange(24.0).reshape(2, 3, 4).transpose(0, 1)
    places = torch.tensor([1]).expand(3, 2, 1)
    assert torch.equal(indexed(values, places), values.gather(-1, places))
