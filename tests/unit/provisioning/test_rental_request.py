"""Which offers are tried in which order, and what is said when none fits."""

from __future__ import annotations

import pytest

from tasks.core.errors import BadRequest
from tasks.provisioning.offers import RentalRequest, candidates
from tasks.provisioning.provisioner import Offer

OFFERS = [
    Offer("fake", "NVIDIA GeForce RTX 4090", "RTX 4090", 24, 0.69),
    Offer("fake", "NVIDIA L4", "L4", 24, 0.39, region="b"),
    Offer("fake", "NVIDIA L4", "L4", 24, 0.35, region="a", available=False),
    Offer("fake", "NVIDIA A100 80GB PCIe", "A100 PCIe", 80, 1.19),
    Offer("fake", "NVIDIA L4", "L4", 24, 0.19, spot=True),
]


def tried(*gpus: str, cap: float | None = None, spot: bool = False) -> list[tuple[str, float]]:
    request = RentalRequest(gpu=gpus, max_price=cap, spot=spot)
    return [(offer.title, offer.price_usd_per_hour) for offer in candidates("fake", OFFERS, request)]


def test_the_person_s_order_counts_before_the_price_and_sold_out_ones_come_last_of_a_name() -> None:
    assert tried("RTX 4090", "nvidia l4") == [("RTX 4090", 0.69), ("L4", 0.39), ("L4", 0.35)]


def test_without_a_name_the_cheapest_under_the_cap_come_first() -> None:
    assert tried(cap=0.7) == [("L4", 0.39), ("RTX 4090", 0.69), ("L4", 0.35)]


def test_spot_is_taken_only_where_it_was_asked_for() -> None:
    assert tried("L4", spot=True) == [("L4", 0.19)]
    with pytest.raises(BadRequest, match="no spot machines of RTX 4090"):
        tried("RTX 4090", spot=True)


def test_an_unknown_name_is_refused_with_the_closest_ones() -> None:
    with pytest.raises(BadRequest) as refused:
        tried("RTX 4080")
    assert "RTX 4090" in refused.value.facts["close"]
    assert "jade offers --provider fake" in str(refused.value)


def test_a_cap_under_every_offer_is_refused_with_the_cheapest() -> None:
    with pytest.raises(BadRequest) as refused:
        tried("A100 PCIe", "RTX 4090", cap=0.5)
    assert refused.value.facts["cheapest_usd_per_hour"] == 0.69
    assert "--max-price" in str(refused.value)


def test_renting_anything_at_any_price_must_be_said() -> None:
    with pytest.raises(BadRequest, match="--gpu NAME"):
        tried()
