"""A split on disk: `.npz` without pickles, which `job.load_rows` reads too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jade_model.core.errors import ConfigError
from jade_model.core.files import atomic_path
from jade_model.data.splits import Split

_ROWS = ("train_rows", "validation_rows", "test_rows")


def save_split(split: Split, path: Path) -> None:
    """Write a split, in one step."""
    rows: dict[str, Any] = {name: getattr(split, name).astype(np.int64) for name in _ROWS}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, seed=np.array(split.seed), fold=np.array(split.fold), kind=np.array(split.kind), **rows)


def load_split(path: Path) -> Split:
    """Read what save_split wrote.

    Raises:
        ConfigError: The file is missing or is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            rows = {name: data[name].astype(np.intp) for name in _ROWS}
            return Split(seed=int(data["seed"]), fold=int(data["fold"]), kind=str(data["kind"]), **rows)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ConfigError(f"{path} is not a readable split: {error}") from error
