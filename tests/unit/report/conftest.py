"""Inputs that the tests of reports share; none of them changes them."""

from __future__ import annotations

import pytest
from helpers.report_inputs import make_report_input

from jade_model.report import ReportInput


@pytest.fixture(scope="session")
def good() -> ReportInput:
    return make_report_input(
        ("soft_span", "crf", "single_span"), seeds=(0, 1, 2), num_folds=2, num_windows=40, trend=True, epochs=30
    )


@pytest.fixture(scope="session")
def pathology() -> ReportInput:
    return make_report_input(
        ("soft_span", "crf"), num_folds=1, split="seed", learned=False, overfit=0.15, num_windows=40
    )
