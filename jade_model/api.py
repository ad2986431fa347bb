"""What `import jade_model` offers to notebooks and programs.

Legend: N windows, T bars.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from jade_model.core.errors import ConfigError
from jade_model.core.span_heads.own import load_arms
from jade_model.core.windows import Windows
from jade_model.data.cutting import Cutting
from jade_model.data.cutting import cut_windows as cut_windows_and_notes
from jade_model.data.sample import NAME as SAMPLE
from jade_model.data.schema import load_windows
from jade_model.data.text.columns import Reading
from jade_model.scoring.parts import Metric
from jade_model.scoring.trained import TrainedModel, open_model
from jade_model.statistics.compare import ComparedArms
from jade_model.statistics.given import compare_given
from jade_model.statistics.verdict import Question

if TYPE_CHECKING:
    import pandas as pd

FINDERS = "jade_model.models"
"""Entry points that turn a name, and where runs are kept, into a model's path; Jade's own asks its artifacts."""


def load_model(
    name: str | Path, *, artifacts: str | None = None, device: str = "cpu", arm_module: str | Path | None = None
) -> TrainedModel:
    """Load a trained model, with how it is decoded.

    Args:
        name: A checkpoint or a training's folder; else `champion`, `challenger`, `RUN/ARM` of a run among the artifacts
            (`latest/crf`), or `s3://bucket/prefix/RUN/ARM`, which is fetched first.
        artifacts: Where runs are kept: a folder or s3://bucket/prefix; None: as the settings say, else `artifacts`.
        device: Where it computes: cpu, cuda or cuda:N.
        arm_module: Python file with the arm that the model was trained with, if that is one of your own; it is run.

    Returns:
        The model; `.predict(windows or bars)` gives a table of spans.

    Raises:
        JadeError: There is no such model, or it is no checkpoint; the message says where it was looked for.

    Example:
        >>> import jade_model
        >>> model = jade_model.load_model("champion")  # doctest: +SKIP
        >>> model.predict(bars)[["window_id", "expansion_start", "probability"]]  # doctest: +SKIP
    """
    if arm_module is not None:
        load_arms(Path(arm_module))
    if isinstance(name, Path) or ("://" not in name and Path(name).expanduser().exists()):
        return open_model(Path(name).expanduser(), device=device)
    found = list(entry_points(group=FINDERS))
    if not found:
        raise ConfigError(
            f"there is no {name} here, and nothing that finds models by name is installed: `jade-expansions` brings it "
            "(after an upgrade of a checkout: python -m pip install -e .)"
        )
    return open_model(found[0].load()(name, artifacts), device=device)


def read_windows(source: str | Path | Sequence[str | Path] = SAMPLE, *, require_labels: bool = True) -> Windows:
    """Read windows of bars and check them in full.

    Args:
        source: A Parquet file, a folder or glob of them, several of these, or `sample`, the built-in sample.
        require_labels: False reads bars alone.

    Raises:
        DataError: The files break the contract; all violations are in it.

    Example:
        >>> import jade_model
        >>> windows = jade_model.read_windows("sample")
        >>> windows.num_windows, windows.window_length
        (206, 105)
        >>> windows.spans_of(0).tolist()  # half-open: bars 15 to 20
        [[15, 21]]
    """
    return load_windows(source, require_labels=require_labels)


def cut_windows(
    bars: str | Path | pd.DataFrame,
    labels: str | Path | None = None,
    *,
    window_length: int = 105,
    stride: int | None = None,
    overlap_offsets: Sequence[int] = (),
    instrument: str = "",
    seed: int = 0,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> Windows:
    """Cut bars into windows, around labelled spans or one after the other, as `jade window` does.

    What was understood of a file, or left out, is warned of.

    Args:
        bars: A text file as exchanges and platforms export them, or a table: columns open, high, low, close, and a
            column time or an index of times.
        labels: CSV of start, end (inclusive times or bar numbers) and label, or Label Studio's export.
        window_length: T, in bars.
        stride: Bars between windows; None: one window a label, or windows that follow one another.
        overlap_offsets: Shifts of further windows around a label, in bars.
        instrument: Name, instead of the file's.
        seed: Of the places of the labelled spans in their windows.
        reading: What a file does not say itself.

    Raises:
        DataError: A file or table breaks its contract, or there are fewer bars than one window.
        ConfigError: Settings contradict one another.

    Example:
        >>> import jade_model
        >>> import pandas as pd
        >>> bars = pd.DataFrame(
        ...     {"open": 100.0, "high": 101.0, "low": 99.0, "close": 100.5},
        ...     index=pd.date_range("2024-01-02 14:30", periods=250, freq="min", tz="UTC"),
        ... )
        >>> windows = jade_model.cut_windows(bars, window_length=100)
        >>> windows.window_id_N.tolist()  # the last one ends with the last bar
        ['bar_0', 'bar_100', 'bar_150']
    """
    cutting = Cutting(window_length, stride, tuple(overlap_offsets), instrument, seed)
    windows, notes = cut_windows_and_notes(bars, labels, cutting, reading)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return windows


def compare_arms(
    *predictions: str | Path | pd.DataFrame | Mapping[str, str | Path | pd.DataFrame],
    labels: Windows | str | Path | None = None,
    metric: Metric = "f1",
    margin: float = 0.03,
    confidence: float = 0.95,
) -> ComparedArms:
    """Say which of several models is better, whoever made their predictions, with intervals and tests.

    Each table, or its CSV or Parquet file, holds one of two things:

    * Counts: columns `group`, `tp`, `fp`, `fn` of bars and, if spans were matched, `span_tp`, `span_fp`, `span_fn`. A
      group is what shares bars, or is alike for another reason; groups count as drawn independently. Further columns
      tell rows of a group apart: `window`, `dataset`.
    * Spans, as `jade predict` writes them: `window_id`, `expansion_start`, `expansion_end` (inclusive; empty where
      there is none), and `labels` to score them against. A run's own `predictions/ARM.npz` will do as well.

    Columns `seed` and `fold` say which training a row is from: training noise is then part of every interval, and the
    verdict is about the ways to train. Without them it is about these very models. A column `arm` names several arms in
    one table.

    Args:
        predictions: Files, which are called what they are named; tables by name; or tables with a column `arm`.
        labels: Labelled windows, or where they are read from.
        metric: Which F1 the verdict is about: `f1` of bars, or `span_f1_iou50` of spans.
        margin: Largest F1 difference that counts as none, in (0, 1).
        confidence: Of all intervals.

    Returns:
        Scores, differences and the `verdict`: its `outcome`, `winner`, `reason` and `caveats`.

    Raises:
        DataError: A table is none of those, or arms were not scored on the same windows.
        ConfigError: Fewer than two arms, a name twice, labels are missing, or a setting is out of range.

    Example:
        >>> import jade_model
        >>> import numpy as np
        >>> import pandas as pd
        >>> rng = np.random.default_rng(0)
        >>> hits = rng.binomial(8, 0.7, 200)
        >>> ours = pd.DataFrame({"group": range(200), "tp": hits, "fp": 2, "fn": 8 - hits})
        >>> theirs = ours.assign(tp=np.maximum(hits - 1, 0), fn=9 - np.maximum(hits, 1))
        >>> compared = jade_model.compare_arms({"ours": ours, "theirs": theirs})
        >>> compared.verdict.outcome, compared.verdict.winner
        ('winner', 'ours')
    """
    if isinstance(labels, str | Path):
        labels = read_windows(labels)
    named: dict[str, str | Path | pd.DataFrame] = {}
    for given in predictions:
        if isinstance(given, str | Path):
            items: Mapping[str, str | Path | pd.DataFrame] = {Path(given).stem: given}
        elif isinstance(given, Mapping):
            items = given
        elif "arm" in given:
            items = {f"table {len(named) + 1}": given}
        else:
            raise ConfigError("a table without a column arm has no name; give {name: table}")
        for name in items:
            if name in named:
                how = "{name: file}, or NAME=FILE on the command line"
                raise ConfigError(f"two predictions are called {name!r}; give them names: {how}")
        named |= items
    return compare_given(named, Question(metric, margin, confidence), labels=labels)
