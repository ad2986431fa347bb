"""Weights and what made them, in one file: written atomically, read strictly, never unpickled into code.

Legend: F features.
"""

from __future__ import annotations

import io
import json
import platform
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jade_model.core.config import SPAN_HEADS, Recipe, SpanHeadEntry, recipe_from_json, to_json
from jade_model.core.errors import CheckpointError, ConfigError
from jade_model.core.features import feature_set
from jade_model.core.files import write_atomically
from jade_model.core.network import JadeCompact

FORMAT = "jade-checkpoint"
FORMAT_VERSION = 1

SEEDING = threading.RLock()
"""Held by whoever draws from torch's generator after seeding it."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One trained (or half-trained) model.

    Attributes:
        recipe: What it was trained by.
        feature_names: The features it reads, in order.
        window_length: T of its training windows.
        dataset: Short name of the data set.
        data_sha256: Digest of the data set's files.
        train_rows: Rows that it was fitted on, int64.
        validation_rows: Rows that its validation loss is of, int64; may be empty.
        seed: Of weights, order and dropout.
        fold: 0-based.
        epoch: Epochs done.
        history: One JSON-able record an epoch; see train.EpochRecord.
        run_key: Digest of everything that decides the result; empty if nobody asked for one.
        versions: Of python, torch and numpy.
        weights: The model's state dict.
        training_state: What resuming needs (weights, optimiser, generator, scales), or None.
        arm_sha256: Digest of the module that its loss is of, if that is an arm of one's own; else empty.
    """

    recipe: Recipe
    feature_names: tuple[str, ...]
    window_length: int
    dataset: str
    data_sha256: str
    train_rows: Tensor
    validation_rows: Tensor
    seed: int
    fold: int
    epoch: int
    history: tuple[dict[str, Any], ...]
    run_key: str
    versions: dict[str, str]
    weights: dict[str, Tensor]
    training_state: dict[str, Any] | None = None
    arm_sha256: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every epoch of the recipe is done."""
        return self.epoch == self.recipe.training.epochs


def current_versions() -> dict[str, str]:
    """Return the versions that numerical results depend on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}


def build_model(recipe: Recipe, *, seed: int) -> JadeCompact:
    """Return a fresh, seeded model on the CPU; torch's global generator is left as it was."""
    # The generator is the process's: of two threads, each would draw from what the other has seeded.
    with SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = feature_set(recipe.feature_set)
        return JadeCompact(recipe.model, loss=recipe.loss, num_features=len(features.names), num_path=features.num_path)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write the checkpoint; a reader sees the old file or the whole new one."""
    metadata = {
        "recipe": to_json(checkpoint.recipe),
        "feature_names": list(checkpoint.feature_names),
        "window_length": checkpoint.window_length,
        "dataset": checkpoint.dataset,
        "data_sha256": checkpoint.data_sha256,
        "seed": checkpoint.seed,
        "fold": checkpoint.fold,
        "epoch": checkpoint.epoch,
        "history": list(checkpoint.history),
        "run_key": checkpoint.run_key,
        "versions": checkpoint.versions,
    }
    if checkpoint.arm_sha256:
        metadata["arm_sha256"] = checkpoint.arm_sha256
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "metadata": json.dumps(metadata, allow_nan=False),
        "train_rows": checkpoint.train_rows,
        "validation_rows": checkpoint.validation_rows,
        "weights": _on_cpu(checkpoint.weights),
        "training_state": _on_cpu(checkpoint.training_state),
    }
    # In memory first: of a file that cannot be written, such as on a full disk, torch does not say why.
    written = io.BytesIO()
    torch.save(content, written)
    write_atomically(path, written.getvalue())


def load_checkpoint(path: Path, *, feature_set_name: str | None = None) -> Checkpoint:
    """Read what save_checkpoint wrote.

    Args:
        path: The file.
        feature_set_name: The feature set that will be fed to the model, if the caller has chosen one.

    Raises:
        CheckpointError: There is no such file, it is not a checkpoint, it is damaged, its features are not
            those of this version, or it was trained on another feature set than the one named.
    """
    content = load_content(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a Jade checkpoint (it holds {shown_keys(content)})")
    if content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {content.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}; use the version of Jade that wrote it"
        )
    try:
        metadata = json.loads(content["metadata"])
        _check_arm(path, metadata["recipe"]["loss"], metadata.get("arm_sha256", ""))
        checkpoint = Checkpoint(
            recipe=recipe_from_json(metadata.pop("recipe")),
            feature_names=tuple(metadata.pop("feature_names")),
            history=tuple(metadata.pop("history")),
            train_rows=content["train_rows"],
            validation_rows=content["validation_rows"],
            weights=content["weights"],
            training_state=content["training_state"],
            **metadata,
        )
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} is damaged or was written by another version: {error!r}") from error
    _check_features(path, checkpoint, feature_set_name)
    return checkpoint


def model_of(checkpoint: Checkpoint) -> JadeCompact:
    """Rebuild the model with the weights that are scored, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: The weights are not this recipe's.
    """
    model = build_model(checkpoint.recipe, seed=0)
    try:
        model.load_state_dict(checkpoint.weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint's weights do not fit its recipe: {error}") from error
    return model.eval()


def load_content(path: Path) -> dict[str, Any]:
    """Read a file of tensors and plain values without running code from it.

    Raises:
        CheckpointError: The file is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    if (record := _damaged_record(path)) is not None:
        raise CheckpointError(f"{path} is damaged: its record {record} is not what was written")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen unrelated types on damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint without running code from it: {reason}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def _damaged_record(path: Path) -> str | None:
    """Return the first record whose checksum is wrong: torch writes checksums but does not look at them.

    What is no archive, or is damaged in its headers, is left to torch, which says better why it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError):
        return None


def shown_keys(content: dict[str, Any]) -> str:
    """Describe what a file holds, for an error message."""
    keys = [str(key) for key in content]
    return f"the keys {', '.join(keys[:6])}{', ...' if len(keys) > 6 else ''}" if keys else "nothing"


def _check_arm(path: Path, loss: str, sha256: str) -> None:
    """Refuse weights of an arm of one's own unless this very module was given: another would read them otherwise."""
    found = SPAN_HEADS.get(loss, SpanHeadEntry(""))
    if sha256 and (found.sha256 != sha256 or not found.implementation):
        given = (
            f"the one that was given has SHA-256 {found.sha256[:12]}..." if found.implementation else "none was given"
        )
        raise CheckpointError(
            f"{path} was trained with the arm {loss!r} of a module of one's own, SHA-256 {sha256[:12]}...; {given}. "
            "--arm-module names it; the run that trained it keeps a copy, arm_module.py"
        )


def _check_features(path: Path, checkpoint: Checkpoint, wanted: str | None) -> None:
    trained_on = checkpoint.recipe.feature_set
    if wanted is not None and wanted != trained_on:
        raise CheckpointError(f"{path} was trained on the feature set {trained_on!r}; {wanted!r} was asked for")
    names = feature_set(trained_on).names
    if names != checkpoint.feature_names:
        raise CheckpointError(
            f"{path} reads the features {', '.join(checkpoint.feature_names)}; {trained_on!r} here "
            f"gives {', '.join(names)}; use the version of Jade that wrote it"
        )


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return value
