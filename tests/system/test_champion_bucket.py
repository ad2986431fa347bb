"""One champion in a bucket at every moment, whoever dies; test_champion.py says it of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.champions import NIGHT, check_champion_and_healing

from tasks.artifacts.transfer import publish_run
from tasks.experiments.champion import promote, roll_back
from tests.fakes.s3_server import Bucket, WithBucket, client_for

pytestmark = pytest.mark.system


class Died(BaseException):
    """As a killed process, it is caught by nobody."""


@contextmanager
def dying(client: Any, step: int) -> Iterator[None]:
    """Let whoever writes die before its n-th object is sent, or once it is stored: steps 2 n and 2 n + 1."""
    ended = 0

    def before_send(**_: Any) -> None:
        if step == 2 * ended:
            raise Died

    def after_call(**_: Any) -> None:
        nonlocal ended
        if step == 2 * ended + 1:
            raise Died
        ended += 1

    client.meta.events.register("before-send.s3.PutObject", before_send)
    client.meta.events.register("after-call.s3.PutObject", after_call)
    try:
        yield
    finally:
        client.meta.events.unregister("before-send.s3.PutObject", before_send)
        client.meta.events.unregister("after-call.s3.PutObject", after_call)


class TestChampion(WithBucket):
    @pytest.mark.parametrize("action", ["promote", "rollback"])
    @pytest.mark.parametrize("step", range(4))
    def test_a_death_at_any_write_leaves_one_champion_and_a_history_that_heals(
        self, bucket: Bucket, tmp_path: Path, action: str, step: int
    ) -> None:
        store = bucket.store()
        (tmp_path / "card.json").write_text("{}")
        for name in "abc":
            publish_run(store, tmp_path, f"run-{name}")
        promote(store, "run-a", instead_of=None, now=NIGHT)
        promote(store, "run-b", instead_of="run-a", now=NIGHT)
        with dying(client_for(bucket.settings), step), pytest.raises(Died):
            promote(store, "run-c", instead_of="run-b") if action == "promote" else roll_back(store)
        check_champion_and_healing(store, action, has_moved=step > 0)
