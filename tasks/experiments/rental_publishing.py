"""What was rented for a run, shown in the Prefect UI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.artifacts import create_table_artifact

from tasks.provisioning.rental_files import read_rental, rental_rows, rental_sentence


@contextmanager
def rental_shown(folder: Path) -> Iterator[None]:
    """Put what a run has rented by the end of the block among its artifacts, however the block ends."""
    try:
        yield
    finally:
        rental = read_rental(folder)
        if rental is not None:
            create_table_artifact(rental_rows(rental), key="rental", description=rental_sentence(rental))
