"""A trained model as its users take it: weights, how its output is decoded, and the spans that it finds.

Legend: N windows, T bars, S spans.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jade_model.core.checkpoint import load_checkpoint
from jade_model.core.errors import CheckpointError, ConfigError
from jade_model.core.files import write_atomically
from jade_model.core.job import check_relative
from jade_model.core.windows import TYPE_NAMES, Windows
from jade_model.data.bars import bars_of_frame
from jade_model.data.cutting import windows_in_a_row
from jade_model.scoring.decoding import DecoderChoice, decode
from jade_model.scoring.metrics import spans_from_mask
from jade_model.scoring.predict import Predictor, load_predictor, predict

if TYPE_CHECKING:
    import pandas as pd

DECODING_NAME = "decoding.json"
NOT_EVALUATED = DecoderChoice("one_span", 0.0)
"""How a model is decoded that was never evaluated: one span a window, at temperature 1."""

COLUMNS: dict[str, str] = {
    "window_id": "str",
    "expansion_start": "Int32",
    "expansion_end": "Int32",
    "probability": "float64",
    "label": "str",
    "label_probability": "float64",
    "instrument": "str",
    "start_time": "datetime64[ns, UTC]",
    "expansion_start_time": "datetime64[ns, UTC]",
    "expansion_end_time": "datetime64[ns, UTC]",
}
"""Columns of predicted spans, in order, with what they are in a DataFrame."""


@dataclass(frozen=True)
class Decoding:
    """How a trained model's output becomes spans; lies beside its checkpoint once it was evaluated.

    Attributes:
        choice: Decoder and threshold.
        temperature: What the span scores are divided by.
        members: Checkpoints of the ensemble, relative to this file's folder.
    """

    choice: DecoderChoice
    temperature: float
    members: tuple[str, ...]


def choice_json(choice: DecoderChoice) -> dict[str, Any]:
    """Return a choice as files have it: there the threshold is called `cutoff`."""
    return {"cutoff" if name == "threshold" else name: value for name, value in asdict(choice).items()}


def save_decoding(decoding: Decoding, folder: Path) -> None:
    """Write `decoding.json` into a training's folder."""
    content = {
        **choice_json(decoding.choice),
        "temperature": decoding.temperature,
        "members": list(decoding.members),
    }
    write_atomically(folder / DECODING_NAME, json.dumps(content, indent=2) + "\n")


def load_decoding(folder: Path) -> Decoding | None:
    """Read what save_decoding wrote; None where there is none.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = folder / DECODING_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        temperature, members = float(content.pop("temperature")), tuple(map(str, content.pop("members")))
        for member in members:
            check_relative(member, f"{path}: member")
        if content.get("gain") == "f1":  # older files name it; there was a choice once
            del content["gain"]
        return Decoding(DecoderChoice(threshold=content.pop("cutoff"), **content), temperature, members)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model, or an ensemble of them, and how its output becomes spans.

    Attributes:
        path: The checkpoint or the training's folder.
        predictor: Networks and features.
        checkpoints: Files of the weights, one a member.
        choice: Decoder, its threshold and clean-up.
        temperature: What span scores are divided by before they become probabilities.
        was_evaluated: Whether both were found on data; if not, they are NOT_EVALUATED and 1.
    """

    path: Path
    predictor: Predictor
    checkpoints: tuple[Path, ...]
    choice: DecoderChoice = NOT_EVALUATED
    temperature: float = 1.0
    was_evaluated: bool = False

    @property
    def loss(self) -> str:
        """Name of the span loss that it was trained with."""
        return self.predictor.models[0].loss

    @cached_property
    def window_length(self) -> int:
        """T of the windows that it was trained on, in bars."""
        return load_checkpoint(self.checkpoints[0]).window_length

    def predict(self, data: Windows | pd.DataFrame, *, instrument: str = "") -> pd.DataFrame:
        """Find spans in windows, or in bars.

        Bars are cut into windows of the length that the model was trained on, one after the other, the last one ending
        with the last bar.

        Args:
            data: Windows; or one series of bars: columns open, high, low, close, and a column time or an index of times
                (UTC where they have no zone).
            instrument: Name of the bars, for the result.

        Returns:
            One row a span, and one without a span for each window where none was found: `window_id`;
            `expansion_start` and `expansion_end`, bars of the window, both inclusive, NA where there is none;
            `probability`, the mean of the span's bars; `label` and `label_probability`, the window's type;
            `instrument`; `start_time` of the window; `expansion_start_time` and `expansion_end_time` of the span's
            first and last bar where the bars' times are known (UTC).

        Raises:
            DataError: The bars are not what they should be, or fewer than one window.
        """
        time_NT = None
        if not isinstance(data, Windows):
            data, time_NT = windows_in_a_row(bars_of_frame(data, instrument), self.window_length)
        return frame_of(list(self.spans(data, time_NT)))

    def probabilities(self, windows: Windows) -> NDArray[np.float64]:
        """Return P(bar in a span) of every bar, float64 [N, T]."""
        return predict(self.predictor, windows, temperature=self.temperature).probability_NT

    def spans(self, windows: Windows, time_NT: NDArray[np.datetime64] | None = None) -> Iterator[dict[str, Any]]:
        """Give the rows of `predict` one by one, as COLUMNS -> value, None where there is none.

        Args:
            windows: What to look at.
            time_NT: Of every bar, UTC; None where it is not known.
        """
        predictions = predict(self.predictor, windows, temperature=self.temperature)
        row_S, start_S, end_S = spans_from_mask(decode(predictions, self.choice))
        first_N = np.searchsorted(row_S, np.arange(windows.num_windows + 1))
        type_N = predictions.type_probability_N3.argmax(axis=1)
        for row in range(windows.num_windows):
            start_time = windows.start_time_N[row]
            told: dict[str, Any] = dict.fromkeys(COLUMNS) | {
                "window_id": str(windows.window_id_N[row]),
                "label": TYPE_NAMES[type_N[row]],
                "label_probability": float(predictions.type_probability_N3[row, type_N[row]]),
                "instrument": str(windows.instrument_N[row]) or None,
                "start_time": None if np.isnat(start_time) else start_time,
            }
            found = range(first_N[row], first_N[row + 1])
            if not found:
                yield told
            for span in found:
                start, end = int(start_S[span]), int(end_S[span])
                probability = float(predictions.probability_NT[row, start:end].mean())
                told |= {"expansion_start": start, "expansion_end": end - 1, "probability": probability}
                if time_NT is not None:
                    told |= {
                        "expansion_start_time": time_NT[row, start],
                        "expansion_end_time": time_NT[row, end - 1],
                    }
                yield dict(told)


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows of `TrainedModel.spans` as a table, each column of its kind even where all of it is missing."""
    import pandas as pd

    columns = {}
    for name, kind in COLUMNS.items():
        values: list[Any] = [row[name] for row in rows]
        if kind.startswith("datetime"):
            columns[name] = pd.Series(np.array(values, dtype="datetime64[ns]")).dt.tz_localize("UTC")
        else:
            columns[name] = pd.Series(values, dtype=kind)
    return pd.DataFrame(columns)


def open_model(path: Path, *, device: str = "cpu") -> TrainedModel:
    """Load a checkpoint, or the model or ensemble of a training's folder.

    Args:
        path: The file or folder.
        device: Where it computes.

    Raises:
        CheckpointError: There is nothing there, it is no checkpoint, or the folder holds none, or several.
    """
    if not path.exists():
        raise CheckpointError(f"there is no {path}")
    folder = path if path.is_dir() else path.parent
    decoding = load_decoding(folder)
    files = [path]
    if path.is_dir() and decoding is not None:
        files = [folder / member for member in decoding.members]
    elif path.is_dir():
        files = sorted(folder.glob("checkpoint_*.pt"))
        if len(files) != 1:
            found = sorted(str(file.parent.relative_to(folder)) for file in folder.rglob(DECODING_NAME))
            choices = f": {', '.join(f'{folder.name}/{name}' for name in found[:5])}" if found else ""
            held = "no model of its own" if not files else f"{len(files)} files checkpoint_*.pt"
            raise CheckpointError(f"{folder} holds {held}; name the one that is meant{choices}")
    try:
        predictor = load_predictor(files, device=device)
    except RuntimeError as error:
        raise ConfigError(f"{device} cannot be used: {error}") from error
    if decoding is None:
        return TrainedModel(path, predictor, tuple(files))
    return TrainedModel(path, predictor, tuple(files), decoding.choice, decoding.temperature, was_evaluated=True)
