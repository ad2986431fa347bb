"""One training of a job, with its files: skips what is done, goes on where it was cut off."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

from jade_model.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from jade_model.core.config import Recipe, require
from jade_model.core.errors import CheckpointError
from jade_model.core.files import sha256_file, write_atomically
from jade_model.core.job import Execution, Job, Training, load_rows, run_key
from jade_model.core.train import EpochRecord, PreparedWindows, prepare, steps_of_training
from jade_model.core.training_files import TrainingFiles, files_of, is_done
from jade_model.core.windows import Windows, load_arrays

Event = dict[str, Any]


def run_training(
    job: Job, training: Training, root: Path, execution: Execution, emit: Callable[[Event], None]
) -> Generator[None, None, None]:
    """Train one model of a job and leave its files, unless a verified result of the same run key lies there.

    Pauses after each step, so that several trainings can share a thread.

    Args:
        job: Where the training's data are named.
        training: What to train.
        root: The job file's folder.
        execution: How.
        emit: Called with each event: training_started, epoch, checkpoint, training_done, training_skipped,
            resume_refused.

    Raises:
        UserError: Data, rows, job or device are not what they should be.
        TrainingDiverged: A loss or gradient stopped being finite.
    """
    files = files_of(training, root)
    told = {"arm": training.arm, "dataset": training.dataset, "seed": training.seed, "fold": training.fold}

    def tell(event: str, **values: Any) -> None:
        emit({"event": event, **told, **values})

    if is_done(training, files):
        tell("training_skipped", checkpoint=_relative(files.last, root), run_key=training.run_key)
        return
    started = time.perf_counter()
    data, rows = _inputs(job, training, root)
    start = _resumable(training, files, tell) if execution.resume else None
    tell(
        "training_started",
        epochs=training.recipe.training.epochs,
        first_epoch=start.epoch + 1 if start else 1,
    )
    writer = _Writer(training, files, start, lambda event, values: tell(event, **values), root)
    with writer.open_logs():
        checkpoint = yield from steps_of_training(
            training.recipe,
            data,
            train_rows=rows[0],
            validation_rows=rows[1],
            seed=training.seed,
            fold=training.fold,
            run_key=training.run_key,
            device=execution.device,
            capture=execution.capture,
            resume=start,
            on_epoch=writer.on_epoch,
        )
    writer.finish(checkpoint)
    seconds = time.perf_counter() - started
    tell("training_done", checkpoint=_relative(files.last, root), seconds=seconds, run_key=training.run_key)


def _inputs(job: Job, training: Training, root: Path) -> tuple[PreparedWindows, tuple[Any, Any]]:
    source = job.dataset(training.dataset)
    data = _prepared(root / source.arrays, source.arrays_sha256, training.recipe)
    rows = load_rows(root / training.rows)
    key = run_key(
        data_sha256=source.sha256,
        recipe=training.recipe,
        seed=training.seed,
        fold=training.fold,
        train_rows=rows[0],
        validation_rows=rows[1],
    )
    require(
        key == training.run_key,
        f"{training.title}: the job says run key {training.run_key[:12]}; code, data, recipe and rows here "
        f"give {key[:12]}; write the job anew with this version of jade_model",
    )
    return data, rows


@lru_cache(maxsize=2)
def _prepared(path: Path, sha256: str, recipe: Recipe) -> PreparedWindows:
    return prepare(_windows(path, sha256), recipe)


@lru_cache(maxsize=2)
def _windows(path: Path, sha256: str) -> Windows:
    found = sha256_file(path) if path.is_file() else "no such file"
    require(found == sha256, f"{path}: expected arrays with SHA-256 {sha256[:12]}..., found {found[:12]}")
    return load_arrays(path)


def _resumable(training: Training, files: TrainingFiles, tell: Callable[..., None]) -> Checkpoint | None:
    if not files.resume.exists():
        return None
    try:
        checkpoint = load_checkpoint(files.resume)
    except CheckpointError as error:
        tell("resume_refused", reason=str(error))
        return None
    if checkpoint.run_key != training.run_key:
        tell("resume_refused", reason=f"{files.resume.name} is of another run key, {checkpoint.run_key[:12]}")
        return None
    return checkpoint


class _Writer:
    """Keeps the files of a training in step with it."""

    def __init__(
        self,
        training: Training,
        files: TrainingFiles,
        start: Checkpoint | None,
        tell: Callable[[str, Event], None],
        root: Path,
    ) -> None:
        self.training, self.files, self.tell, self.root = training, files, tell, root
        records = [EpochRecord(**item) for item in start.history] if start is not None else []
        self.best_loss = min((r.validation_loss for r in records if r.validation_loss is not None), default=None)
        self.best: Checkpoint | None = None
        files.folder.mkdir(parents=True, exist_ok=True)
        # What a cut-off attempt wrote beyond its last checkpoint is trained, and told, again.
        write_atomically(files.log, "".join(log_line(record) + "\n" for record in records))
        write_atomically(files.history, "".join(history_line(record) + "\n" for record in records))
        self.log: TextIO
        self.history: TextIO

    @contextmanager
    def open_logs(self) -> Iterator[None]:
        with (
            self.files.log.open("a", encoding="utf-8", buffering=1) as self.log,
            self.files.history.open("a", encoding="utf-8", buffering=1) as self.history,
        ):
            yield

    def on_epoch(self, record: EpochRecord, snapshot: Callable[[], Checkpoint]) -> None:
        config = self.training.recipe.training
        self.log.write(log_line(record) + "\n")
        self.history.write(history_line(record) + "\n")
        loss = record.validation_loss
        if loss is not None and (self.best_loss is None or loss < self.best_loss):
            self.best_loss, self.best = loss, snapshot()
        self.tell("epoch", {"epochs": config.epochs, **dataclasses.asdict(record)})
        if record.epoch % config.checkpoint_every == 0 and record.epoch < config.epochs:
            self._save_best()
            save_checkpoint(snapshot(), self.files.resume)
            self._save_manifest(record.epoch, [self.files.resume], complete=False)
            self.tell("checkpoint", {"epoch": record.epoch, "path": _relative(self.files.resume, self.root)})

    def finish(self, checkpoint: Checkpoint) -> None:
        self._save_best()
        save_checkpoint(checkpoint, self.files.last)
        self._save_manifest(checkpoint.epoch, [self.files.last, self.files.log, self.files.history], complete=True)
        self.files.resume.unlink(missing_ok=True)

    def _save_best(self) -> None:
        if self.best is not None:
            save_checkpoint(self.best, self.files.best)
            self.best = None

    def _save_manifest(self, epoch: int, paths: list[Path], *, complete: bool) -> None:
        best = [self.files.best] if self.best_loss is not None else []
        content = {
            "run_key": self.training.run_key,
            "epoch": epoch,
            "complete": complete,
            "files": [
                {"path": path.name, "size": path.stat().st_size, "sha256": sha256_file(path)} for path in paths + best
            ],
        }
        write_atomically(self.files.manifest, json.dumps(content, indent=2) + "\n")


def log_line(record: EpochRecord) -> str:
    """Return the seed's log line; without validation windows it ends after the training loss."""
    line = f"Epoch {record.epoch}: train_loss={record.train_loss:.4f}"
    return line if record.validation_loss is None else f"{line}, val_loss={record.validation_loss:.4f}"


def history_line(record: EpochRecord) -> str:
    """Return the epoch's record as one line of JSON."""
    return json.dumps(dataclasses.asdict(record), allow_nan=False)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
