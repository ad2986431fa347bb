"""What `--host` may name, and what is said where it makes no sense."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tasks.core.errors import BadRequest
from tasks.execution.placement import Placement, check_placement
from tasks.provisioning.offers import RentalRequest


def test_what_is_named_says_who_trains() -> None:
    here = Placement()
    assert (here.is_local, here.uses_dask, here.provider, here.machines, here.named_hosts) == (True, False, None, 0, ())
    shared = Placement.model_validate({"host": ["gpu1,gpu2", "ec2:4"]})
    assert (shared.named_hosts, shared.provider, shared.machines) == (("gpu1", "gpu2"), "ec2", 4)
    assert Placement.model_validate({"host": "runpod"}).machines == 1
    cluster = Placement.model_validate({"host": "tcp://10.0.0.5:8786", "workers": 3})
    assert (cluster.uses_dask, cluster.scheduler, cluster.named_hosts) == (True, "tcp://10.0.0.5:8786", ())
    assert (Placement(host=("dask",)).uses_dask, Placement(host=("dask",)).scheduler) == (True, None)
    assert str(shared) == "gpu1, gpu2, ec2:4"


def test_it_comes_back_from_run_json_as_it_went() -> None:
    placement = Placement(host=("ec2:2",), workers="arms", rental=RentalRequest(gpu=("L4", "RTX 4090"), budget=5.0))
    assert Placement.model_validate(placement.model_dump(mode="json")) == placement
    assert Placement.model_validate({"rental": {"gpu": "RTX 4090, L4"}}).rental.gpu == ("RTX 4090", "L4")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"host": []}, "at least 1 item"),
        ({"host": ["local", "gpu1"]}, "local is given alone, not beside gpu1"),
        ({"host": ["dask", "gpu1"]}, "dask is given alone"),
        ({"host": ["tcp://a:1", "tcp://b:1"]}, "tcp://a:1 is given alone"),
        ({"host": ["gpu1", "gpu1"]}, "named twice"),
        ({"host": ["runpod", "ec2:2"]}, "runpod, ec2:2: name one of them"),
        ({"host": ["gpu1:2"]}, "only runpod, ec2, static.* take a number"),
        ({"host": ["ec2:0"]}, "a number from 1 to 256"),
        ({"host": ["ec2:many"]}, "a number from 1 to 256"),
        ({"workers": 0}, "from 1 to 256"),
        ({"workers": "many"}, "arms"),
        ({"host": ["dask"], "workers": "arms"}, "a number on Dask"),
        ({"device": "tpu"}, "cpu"),
        ({"rental": {"max_price": 0}}, "greater than 0"),
        ({"rental": {"owner": "no blanks"}}, "owner"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Placement.model_validate(wrong)


def test_a_host_that_no_settings_name_is_refused_before_anything_is_prepared() -> None:
    with pytest.raises(BadRequest, match="gpu9"):
        check_placement(Placement(host=("gpu9", "static")))
