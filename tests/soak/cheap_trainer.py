"""Stands in for `python -m jade_model` on a host: the same files and events, no torch; what an epoch costs is waiting.

What an epoch leaves is a digest of the epoch before, so that a training that was resumed wrongly, or from damaged
bytes, ends in other bytes than one that was never disturbed. Only the standard library: it starts at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

EPOCHS, EVERY = 12, 2
EPOCH_S = float(os.environ.get("JADE_TEST_EPOCH_S", "0.15"))
CHECKPOINT_BYTES = 96 * 1024


def weights(run_key: str, epoch: int, start: tuple[int, str] | None = None) -> str:
    """What a training's state is after an epoch."""
    done, state = start or (0, hashlib.sha256(run_key.encode()).hexdigest())
    for number in range(done + 1, epoch + 1):
        state = hashlib.sha256(f"{state} {number}".encode()).hexdigest()
    return state


def content(run_key: str, epoch: int, state: str) -> bytes:
    """A checkpoint's bytes."""
    head = json.dumps({"run_key": run_key, "epoch": epoch, "state": state}).encode() + b"\n"
    body = hashlib.shake_256(head).digest(CHECKPOINT_BYTES)
    return head + body


def write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def resumable(path: Path, run_key: str) -> tuple[int, str] | None:
    """What an earlier attempt got to, unless its file is damaged or another's."""
    try:
        data = path.read_bytes()
        head = json.loads(data.partition(b"\n")[0])
        whole = content(head["run_key"], head["epoch"], head["state"]) == data and head["run_key"] == run_key
    except (OSError, ValueError, KeyError):
        return None
    return (head["epoch"], head["state"]) if whole else None


def train(training: dict[str, Any], root: Path) -> None:
    folder, key = root / training["output_dir"], training["run_key"]
    folder.mkdir(parents=True, exist_ok=True)
    suffix = f"{training['recipe']['loss']}_{training['recipe']['training']['epochs']}"
    told = {name: training[name] for name in ("arm", "dataset", "seed", "fold")}

    def tell(event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **told, **values}), flush=True)

    def save_manifest(epoch: int, paths: list[Path], *, complete: bool) -> None:
        files = [
            {"path": path.name, "size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in paths
        ]
        found = {"run_key": key, "epoch": epoch, "complete": complete, "files": files}
        write(folder / "manifest.json", json.dumps(found).encode())

    resume, last = folder / f"resume_{suffix}.pt", folder / f"checkpoint_{suffix}.pt"
    start = resumable(resume, key)
    epoch, state = start or (0, weights(key, 0))
    epochs = max(EPOCHS, training["recipe"]["training"]["epochs"])
    tell("training_started", epochs=epochs, first_epoch=epoch + 1)
    if training["recipe"]["training"]["learning_rate"] > 1e9:
        reason = {"kind": "TrainingDiverged", "error": "the training diverged", "exit_code": 3}
        print(json.dumps({"event": "failed", "training": training["output_dir"], **reason}), flush=True)
        return
    while epoch < epochs:
        time.sleep(EPOCH_S)
        state = weights(key, epoch + 1, (epoch, state))
        epoch += 1
        tell("epoch", epoch=epoch, epochs=epochs, train_loss=1.0, validation_loss=None)
        if epoch % EVERY == 0 and epoch < epochs:
            write(resume, content(key, epoch, state))
            save_manifest(epoch, [resume], complete=False)
            tell("checkpoint", epoch=epoch, path=f"{training['output_dir']}/{resume.name}")
    log, history = folder / f"training_{suffix}.log", folder / "history.jsonl"
    write(log, b"".join(f"Epoch {number}: train_loss=1.0000\n".encode() for number in range(1, epochs + 1)))
    write(history, b"{}\n" * epochs)
    write(last, content(key, epochs, state))
    save_manifest(epochs, [last, log, history], complete=True)
    resume.unlink(missing_ok=True)
    tell("training_done", checkpoint=f"{training['output_dir']}/{last.name}", seconds=1.0, run_key=key)


def main() -> None:
    path = Path(sys.argv[2])
    job = json.loads(path.read_text())
    print(json.dumps({"event": "job_started", "run_id": job["run_id"]}), flush=True)
    for training in job["trainings"]:
        train(training, path.parent)
    print(json.dumps({"event": "job_done", "exit_code": 0}), flush=True)


if __name__ == "__main__":
    main()
