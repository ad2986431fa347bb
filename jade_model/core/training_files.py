"""Where one training's files lie, and whether they are all there. Reading them needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jade_model.core.files import sha256_file
from jade_model.core.job import Training

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class TrainingFiles:
    """Where one training's files lie.

    Attributes:
        folder: The training's output folder.
        suffix: `<loss>_<epochs>`.
    """

    folder: Path
    suffix: str

    @property
    def last(self) -> Path:
        """The checkpoint after the last epoch."""
        return self.folder / f"checkpoint_{self.suffix}.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the lowest validation loss; absent without validation windows."""
        return self.folder / f"best_{self.suffix}.pt"

    @property
    def resume(self) -> Path:
        """The newest checkpoint of an unfinished training, overwritten as it goes."""
        return self.folder / f"resume_{self.suffix}.pt"

    @property
    def log(self) -> Path:
        """Lines that people read, one an epoch."""
        return self.folder / f"training_{self.suffix}.log"

    @property
    def history(self) -> Path:
        """One JSON record an epoch."""
        return self.folder / "history.jsonl"

    @property
    def manifest(self) -> Path:
        """Size and SHA-256 of each of the others; written last."""
        return self.folder / MANIFEST_NAME


def files_of(training: Training, root: Path) -> TrainingFiles:
    """Return where the files of a training of a job in `root` lie."""
    recipe = training.recipe
    return TrainingFiles(root / training.output_dir, f"{recipe.loss}_{recipe.training.epochs}")


def is_done(training: Training, files: TrainingFiles) -> bool:
    """Whether the final checkpoint is there, whole, and of this run key."""
    try:
        manifest = json.loads(files.manifest.read_text("utf-8"))
        if manifest["run_key"] != training.run_key or not manifest["complete"]:
            return False
        return all(sha256_file(files.folder / item["path"]) == item["sha256"] for item in manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
