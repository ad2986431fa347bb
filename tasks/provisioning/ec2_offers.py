"""What EC2 machines cost: on demand by AWS's price list or a table given by hand, spot by what was last paid."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tasks.provisioning.ec2_api import PROVIDER, Ec2Api
from tasks.provisioning.provider_errors import ProviderRefused, RequestRefused
from tasks.provisioning.provisioner import Offer

_log = logging.getLogger(__name__)


def list_offers(
    api: Ec2Api, kinds: Sequence[str], *, prices: Mapping[str, float], zone: str | None, offers_spot: bool
) -> list[Offer]:
    """Return the offers for some machine types, the cheapest first. A machine whose price is not known is none.

    Args:
        api: AWS.
        kinds: Instance types, such as `g6.xlarge`.
        prices: USD an hour on demand, by type; instead of the price list.
        zone: The only availability zone that counts; None: all.
        offers_spot: Whether spot machines count.

    Raises:
        ProviderRefused: No price of any of them can be had.
        ProviderUnavailable: Transient.
    """
    filters = [{"Name": "instance-type", "Values": list(kinds)}]
    types = list(api.pages("list machine types", "describe_instance_types", "InstanceTypes", Filters=filters))
    offers = list(_on_demand(api, types, prices))
    if offers_spot:
        offers += _spot(api, types, zone)
    if not offers:
        raise RequestRefused(
            PROVIDER,
            "list offers",
            f"{api.region} has none of {', '.join(kinds)}, or no price of them is known. "
            "Allow pricing:GetProducts, or give prices in the settings",
        )
    return sorted(offers, key=lambda offer: offer.price_usd_per_hour)


def _on_demand(api: Ec2Api, types: Iterable[dict[str, Any]], prices: Mapping[str, float]) -> Iterator[Offer]:
    for described in types:
        kind = str(described["InstanceType"])
        try:
            price = prices[kind] if kind in prices else _listed_price(api, kind)
        except ProviderRefused as error:
            _log.warning("ec2: %s is no offer: its price cannot be looked up: %s", kind, error)
            continue
        if price is None:
            _log.warning("ec2: %s is no offer: the price list of %s does not have it", kind, api.region)
            continue
        yield _offer(described, price, region=api.region)


def _spot(api: Ec2Api, types: Iterable[dict[str, Any]], zone: str | None) -> Iterator[Offer]:
    by_kind = {str(described["InstanceType"]): described for described in types}
    if not by_kind:
        return
    paid = api.pages(
        "list spot prices",
        "describe_spot_price_history",
        "SpotPriceHistory",
        InstanceTypes=list(by_kind),
        ProductDescriptions=["Linux/UNIX"],
        # Asked from now on, AWS tells the price that holds now.
        StartTime=datetime.now(UTC),
    )
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for price in paid:
        place = (str(price["InstanceType"]), str(price["AvailabilityZone"]))
        if place[0] in by_kind and (place not in newest or price["Timestamp"] > newest[place]["Timestamp"]):
            newest[place] = price
    for (kind, where), price in newest.items():
        if zone in {None, where} and float(price["SpotPrice"]) > 0:
            yield _offer(by_kind[kind], float(price["SpotPrice"]), region=where, spot=True)


def _offer(described: Mapping[str, Any], price: float, *, region: str, spot: bool = False) -> Offer:
    gpus = described.get("GpuInfo", {}).get("Gpus", [])
    title, memory_gib = str(described["InstanceType"]), None
    if gpus:
        gpu = gpus[0]
        count = int(gpu.get("Count", 1))
        title = f"{f'{count}x ' if count > 1 else ''}{gpu['Manufacturer']} {gpu['Name']}"
        memory_gib = gpu["MemoryInfo"]["SizeInMiB"] / 1024
    return Offer(
        provider=PROVIDER,
        kind=str(described["InstanceType"]),
        title=title,
        gpu_memory_gib=memory_gib,
        price_usd_per_hour=price,
        region=region,
        spot=spot,
    )


def _listed_price(api: Ec2Api, kind: str) -> float | None:
    """USD an hour on demand, with Linux and nothing else; the highest should there be several."""
    wanted = {
        "instanceType": kind,
        "regionCode": api.region,
        "operatingSystem": "Linux",
        "preInstalledSw": "NA",
        "tenancy": "Shared",
        "capacitystatus": "Used",
    }
    filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
    products = api.products(f"look up the price of {kind}", ServiceCode="AmazonEC2", Filters=filters)
    found = [price for product in products for price in _hourly_prices(product)]
    return max(found, default=None)


def _hourly_prices(product: str) -> Iterator[float]:
    try:
        terms = json.loads(product)["terms"].get("OnDemand", {})
        dimensions = [each for term in terms.values() for each in term["priceDimensions"].values()]
        prices = [float(each["pricePerUnit"]["USD"]) for each in dimensions if each["unit"] == "Hrs"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("ec2: an entry of the price list makes no sense (%s: %s)", type(error).__name__, error)
        return
    yield from (price for price in prices if price > 0)
