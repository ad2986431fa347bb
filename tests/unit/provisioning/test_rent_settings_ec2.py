"""What `[ec2]` of a settings file becomes."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.core.errors import SettingsError
from tasks.provisioning.ec2 import DEFAULT_PYTHON, Ec2Provisioner
from tasks.provisioning.registry import ec2
from tasks.settings.load import Settings
from tests.fakes.ec2_world import CREDENTIALS

REGION = {"region": "eu-central-1"}


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


def _lender(**table: Any) -> Any:
    return ec2(Settings(providers={"ec2": {**REGION, **table}}))


def test_the_default_image_has_a_python_of_its_own() -> None:
    lender = _lender()
    assert isinstance(lender.provisioner, Ec2Provisioner)
    assert lender.place("i-1").python == DEFAULT_PYTHON
    assert _lender(image="ami-1").place("i-1").python == "python3"
    assert _lender(python="/usr/bin/python3.12").place("i-1").python == "/usr/bin/python3.12"


def test_prices_are_a_table_of_numbers() -> None:
    _lender(prices={"g5.xlarge": 1.006})
    with pytest.raises(SettingsError, match=r"prices\.g5\.xlarge: .*a valid number"):
        _lender(prices={"g5.xlarge": "cheap"})
    with pytest.raises(SettingsError, match="prices: Input should be an object"):
        _lender(prices=1.0)


def test_what_is_unknown_is_refused_with_what_there_is() -> None:
    with pytest.raises(SettingsError, match=r"unknown instance_type; known: .*instance_types.*region, profile"):
        _lender(instance_type="g5.xlarge")
