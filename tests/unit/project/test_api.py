"""What notebooks and programs import: models by path or name, windows, and a verdict on anyone's predictions."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jade_model
from flows.cli import run
from jade_model import api
from jade_model.core.errors import CheckpointError, ConfigError, DataError
from jade_model.core.job import load_job
from jade_model.core.windows import Windows
from jade_model.scoring.parts import METRICS
from jade_model.statistics.compare import ComparedArms
from tasks.core.errors import RunNotFound
from tasks.core.layout import RunLayout

ROOT = Path(__file__).parents[3]


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pyproject.toml declares, whether or not this checkout was installed again since."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][api.FINDERS]
    points = [EntryPoint(name, value, api.FINDERS) for name, value in declared.items()]
    monkeypatch.setattr(api, "entry_points", lambda group: points if group == api.FINDERS else [])


def bars_of(windows: Windows) -> pd.DataFrame:
    """Return the first window's bars as a series."""
    frame = pd.DataFrame(windows.bars_NT4[0], columns=["Open", "High", "Low", "Close"])
    return frame.set_index(pd.date_range("2024-01-02 14:30", periods=len(frame), freq="min", tz="UTC"))


def test_the_examples_in_the_docstrings_run() -> None:
    failed, tried = doctest.testmod(api)
    assert (failed, tried > 10) == (0, True)


def test_importing_the_package_imports_neither_torch_nor_pandas() -> None:
    code = "import sys, jade_model; print(dir(jade_model), {'torch', 'pandas'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip().endswith("set()")
    assert "load_model" in told
    with pytest.raises(AttributeError, match="load_modell"):
        jade_model.load_modell  # noqa: B018


@pytest.mark.usefixtures("finder")
def test_a_model_is_found_by_path_and_by_run_and_finds_the_same_spans(
    small_run: RunLayout, small_windows: Windows
) -> None:
    folder = load_job(small_run.job_json).trainings[0].output_dir
    by_path = jade_model.load_model(small_run.root / folder)
    by_name = jade_model.load_model(f"{small_run.run_id}/{folder}", artifacts=str(small_run.root.parent))
    assert by_path.was_evaluated
    spans = by_path.predict(small_windows)
    pd.testing.assert_frame_equal(spans, by_name.predict(small_windows))
    assert spans["window_id"].nunique() == small_windows.num_windows
    found = spans.dropna(subset="expansion_start")
    assert (found["expansion_start"] <= found["expansion_end"]).all()
    assert found["probability"].between(0, 1).all()
    assert str(spans["start_time"].dtype) == "datetime64[ns, UTC]"


@pytest.mark.usefixtures("finder")
def test_what_is_nowhere_is_said_to_be_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunNotFound, match="champion"):
        jade_model.load_model("champion", artifacts=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"there is no .*none\.pt"):
        jade_model.load_model(tmp_path / "none.pt")
    monkeypatch.setattr(api, "entry_points", lambda **_: [])
    with pytest.raises(ConfigError, match="pip install"):
        jade_model.load_model("champion")


def test_bars_give_spans_with_their_times(small_run: RunLayout, small_windows: Windows) -> None:
    folder = load_job(small_run.job_json).trainings[0].output_dir
    model = jade_model.load_model(small_run.root / folder)
    bars = bars_of(small_windows)
    spans = model.predict(bars, instrument="X")
    (same,) = {*spans["window_id"]}
    assert same == "X_bar_0"
    whole = model.predict(small_windows.take(np.array([0])))
    assert spans["expansion_start"].tolist() == whole["expansion_start"].tolist()
    for _, span in spans.dropna(subset="expansion_start").iterrows():
        assert span["expansion_start_time"] == bars.index[span["expansion_start"]]
    # Two windows: the second one ends with the last bar.
    longer = pd.concat([bars, bars.set_index(bars.index + pd.Timedelta(days=1)).head(20)])
    assert set(model.predict(longer)["window_id"]) == {"bar_0", "bar_20"}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda bars: bars.drop(columns="High"), "high: found 0 columns"),
        (lambda bars: bars.reset_index(drop=True), "no index of times"),
        (lambda bars: bars.iloc[::-1], "times that ascend"),
        (lambda bars: bars.assign(Low=bars["High"] + 1), "a high that is not below the low"),
        (lambda bars: bars.assign(Close=np.nan), "finite prices"),
        (lambda bars: bars.assign(Close="n/a"), "no numbers"),
        (lambda bars: bars.head(10), "at least the 105 of one window"),
    ],
)
def test_a_table_that_is_no_series_of_bars_is_refused(spoil, told, small_windows: Windows) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=told):
        jade_model.cut_windows(spoil(bars_of(small_windows)))


def counts(*, better: float = 0.0, groups: int = 60, seeds: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    rows = pd.DataFrame({"group": np.tile(np.arange(groups), seeds), "seed": np.repeat(np.arange(seeds), groups)})
    hit = rng.binomial(10, 0.6, len(rows))
    hit = np.minimum(hit + rng.binomial(4, better, len(rows)), 10)
    return rows.assign(tp=hit, fp=3, fn=10 - hit)


def test_a_verdict_on_counts_is_that_of_a_comparison(tmp_path: Path) -> None:
    counts(better=0.9, seeds=3).to_csv(tmp_path / "new.csv", index=False)
    counts(seeds=3).to_csv(tmp_path / "old.csv", index=False)
    compared: ComparedArms = jade_model.compare_arms(tmp_path / "new.csv", tmp_path / "old.csv")
    assert (compared.verdict.outcome, compared.verdict.winner) == ("winner", "new")
    assert not any("very models" in caveat for caveat in compared.verdict.caveats)
    alone = jade_model.compare_arms({"a": counts().drop(columns="seed"), "b": counts().drop(columns="seed")})
    assert alone.verdict.difference == 0
    assert any("very models" in caveat for caveat in alone.verdict.caveats)


def test_spans_are_scored_as_the_run_that_wrote_them_scored_them(
    small_run: RunLayout, small_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = json.loads(small_run.comparison_json.read_text())
    files = [str(small_run.predictions(arm)) for arm in comparison["arms"]]
    assert run(["verdict", *files, "--labels", str(small_file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {item["arm"] for item in told["scores"]} == comparison["arms"].keys()
    mine, judged = told["verdict"], comparison["verdict"]
    for key in ("first", "second", "outcome"):
        assert mine[key] == judged[key]
    assert mine["difference"] == pytest.approx(judged["difference"])
    assert mine["confidence_interval"] == pytest.approx(judged["confidence_interval"])


def test_spans_from_a_table_of_predictions_count_as_marked_bars(small_windows: Windows) -> None:
    row_S = small_windows.span_row_S
    right = pd.DataFrame(
        {
            "window_id": small_windows.window_id_N[row_S],
            "expansion_start": small_windows.spans_S2[:, 0],
            "expansion_end": small_windows.spans_S2[:, 1] - 1,
        }
    )
    nothing = right.assign(expansion_start=None, expansion_end=None)
    compared = jade_model.compare_arms({"right": right, "nothing": nothing}, labels=small_windows)
    scores = [compared.score(arm, metric).value for arm in ("right", "nothing") for metric in METRICS]
    assert scores == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda frame: frame.drop(columns="tp"), "columns group, tp, fp, fn"),
        (lambda frame: frame.head(0), "no rows"),
        (lambda frame: frame.assign(tp=-1), "a whole number from 0 on"),
        (lambda frame: pd.concat([frame, frame.tail(1)]), "group 59 twice"),
        (lambda frame: frame.assign(seed=4), "seeds 4"),
        (lambda frame: frame.assign(fold=frame["group"] % 2), "other folds"),
        (lambda frame: frame.head(50), "10 windows or groups differ, such as 50 (missing)"),
        (lambda frame: frame.assign(span_tp=1), "only span_tp"),
    ],
)
def test_predictions_that_cannot_be_compared_are_refused(spoil, told) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError) as caught:
        jade_model.compare_arms({"a": counts(), "b": spoil(counts())})
    assert told in str(caught.value)


def test_spans_without_labels_and_a_missing_metric_are_refused(tmp_path: Path) -> None:
    spans = pd.DataFrame({"window_id": ["a"], "expansion_start": [1], "expansion_end": [2]})
    with pytest.raises(ConfigError, match="--labels"):
        jade_model.compare_arms({"a": spans, "b": spans})
    with pytest.raises(DataError, match="span_tp"):
        jade_model.compare_arms({"a": counts(), "b": counts()}, metric="span_f1_iou50")
    with pytest.raises(DataError, match="no such file"):
        jade_model.compare_arms(tmp_path / "a.csv", tmp_path / "b.csv")
    with pytest.raises(ConfigError, match="has no name"):
        jade_model.compare_arms(counts())
