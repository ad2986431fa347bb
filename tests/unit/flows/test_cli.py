"""Commands: what they print, where errors go, and the exit codes."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from flows.cli import COMMANDS, run
from jade_model.data.sample import sample_windows
from tasks.core.layout import RunLayout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom flows.cli import run\nassert run(['--help']) == 0\n"
        "heavy = {'torch', 'prefect', 'pandas', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_flows_start_without_torch() -> None:
    code = (
        "import sys, flows.compare, flows.reap\n"
        "heavy = {'torch', 'scipy.stats', 'matplotlib', 'prefect.server'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# What `jade completion` prints is for a shell.
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "completion"])
def test_every_command_explains_itself_and_speaks_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compere"], "Did you mean 'compare'?"),
        (["compare", "--epochs", "0"], "--epochs: Input should be greater than or equal to 1 (given: '0')"),
        (["compare", "--arms", "crf,lstm"], "--arms"),
        (["compare", "--host", "gpu9"], "no host is called 'gpu9'"),
        (["compare", "--host", "local,gpu1"], "--host: local is given alone"),
        (["compare", "--max-price", "0"], "--max-price: Input should be greater than 0"),
        (["compare", "--margin", "2", "--workers", "0"], "--workers: workers is a number from 1 to 256"),
        (["compare", "--engine", "dask"], "--engine is no more: --host says"),
        (["compare", "--hosts", "a,b"], "--host gpu1 --host gpu2"),
        (["train", "--loss", "crf", "--provider", "runpod"], "--host runpod:8"),
        (["compare", "--parallel-arms"], "--workers arms"),
        (["compare", "--arms", "crf"], "--arms"),
        (["compare", "--split", "seed", "--folds", "5"], "split `seed` is a single split"),
        (["train"], "error: --loss is missing\n"),
        (["compare", "--ssed", "3"], "No such option '--ssed'. Did you mean '--seeds'?"),
        (["compare", "--max-price", "0.5"], "--max-price: no machine is rented here; --host runpod would rent one"),
        (["compare", "--recipe", "mine.toml"], "--recipe mine.toml: there is no such file"),
        (["compare", "--data", __file__], "`jade window` cuts windows out of raw bars"),
        (["validate", "sample", "--timezone", "UTC"], "--timezone: sample holds no raw bars"),
        (["validate", "sample", "--labels", "labels.csv"], "--labels: sample holds no raw bars"),
        (["validate", "bars.csv", "--unlabelled"], "--unlabelled: bars.csv holds raw bars"),
        (
            ["predict", "--model-path", "m", "--data-path", "sample", "--month-first"],
            "--month-first: this is about --bars",
        ),
        (["validate", "nowhere.parquet"], "nowhere.parquet"),
        (["report", "nowhere"], "no run called 'nowhere'"),
        (["export", "--model-path", "champion"], "`jade retrain` makes the first champion"),
        (["predict", "--model-path", "nowhere.pt", "--data-path", "x.parquet"], "nowhere.pt"),
        (["window", "nowhere.csv", "out.parquet"], "nowhere.csv"),
    ],
)
def test_bad_usage_and_input_exit_with_2_and_say_why_on_standard_error(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("command", ["compare", "retrain"])
def test_tracking_without_mlflow_is_refused_before_a_server_starts(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run([command, "--track", "mlflow"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: tracking needs MLflow")


def test_an_error_is_json_where_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "nowhere", "--json"]) == 2
    error = json.loads(capsys.readouterr().err)
    assert (error["error"], error["exit_code"]) == ("RunNotFound", 2)
    assert run(["compare", "--host", "gpu9", "--json"]) == 2
    error = json.loads(capsys.readouterr().err)
    assert (error["error"], error["facts"]) == ("BadRequest", {"name": "gpu9", "known": []})


def test_a_server_that_goes_away_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "Failed to reach API at http://x/"

    def invoke(*_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(click.Command, "invoke", invoke)
    assert run(["doctor"]) == 1
    assert capsys.readouterr().err == f"error: Prefect's server: {said}\n"
    said = "something else"
    with pytest.raises(RuntimeError, match="something else"):
        run(["doctor"])


def test_the_sample_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sample.parquet"
    assert run(["sample", str(out), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert run(["validate", str(out), "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["valid"] is True
    assert checked["num_windows"] == written["num_windows"] >= 200


def test_the_sample_is_known_by_name_wherever_windows_are_read(
    small_run: RunLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", "sample", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_groups"] == 100
    out = tmp_path / "spans.csv"
    arguments = ["predict", "--model-path", str(small_run.root / "crf"), "--data-path", "sample", "--out", str(out)]
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_windows"] == 206
    assert run([*arguments, "--decoder", "marginal", "--threshold", "7"]) == 2
    assert "a probability from 0 to 1, not 7" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["hosts"], ["artifacts"]])
def test_a_command_alone_explains_itself_once(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("Usage: jade") == 1
    assert "error" not in told


def test_a_place_that_cannot_be_written_to_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(self: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "replace", is_full)
    assert run(["sample", str(tmp_path / "sample.parquet")]) == 1
    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert told.endswith("; free some space, or write to another place\n")


def test_validate_lists_every_violation_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 but not really")
    assert run(["validate", str(bad), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"] is False
    assert answer["violations"][0]["file"] == str(bad)


def test_report_can_be_written_again_from_the_files(
    small_run: RunLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / small_run.run_id
    shutil.copytree(small_run.root, copy)
    before = (copy / "report" / "SOFT_SPAN_VS_CRF_COMPARISON.md").read_text()
    shutil.rmtree(copy / "report")
    assert run(["report", small_run.run_id[:12], "--artifacts", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == small_run.run_id
    assert (copy / "report" / "SOFT_SPAN_VS_CRF_COMPARISON.md").read_text() == before


def test_diff_of_a_run_with_itself_is_empty(small_run: RunLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", str(small_run.root), str(small_run.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(("mode", "loss"), [("soft", "soft_span"), ("crf", "crf")])
def test_optimize_threshold_takes_the_seeds_flags(
    small_run: RunLayout, small_file: Path, capsys: pytest.CaptureFixture[str], mode: str, loss: str
) -> None:
    flags = ["--data-path", str(small_file), "--model-path", str(small_run.root / loss / f"checkpoint_{loss}_2.pt")]
    grid = ["--min-threshold", "0.4", "--max-threshold", "0.6", "--step", "0.1", "--min-span-length", "2"]
    assert run(["optimize-threshold", *flags, "--mode", mode, "--device", "cpu", *grid, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [point["threshold"] for point in result["grid"]] == [0.4, 0.5, 0.6]
    assert result["how"] == "chosen on the model's validation windows, scored on windows it never saw"
    assert result["num_chosen_on"] > 0
    assert result["num_scored"] > 0
    assert run(["optimize-threshold", *flags, "--mode", mode]) == 0
    assert "mark everything" in capsys.readouterr().out


def test_optimize_threshold_refuses_the_wrong_mode(
    small_run: RunLayout, small_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_run.root / "crf" / "checkpoint_crf_2.pt"
    flags = ["--data-path", str(small_file), "--model-path", str(model)]
    assert run(["optimize-threshold", *flags, "--mode", "soft"]) == 2
    assert "was trained with crf; use --mode crf" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_predict_writes_every_window_with_spans_inside_it(
    small_run: RunLayout, small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    bare = tmp_path / "bare.parquet"
    pq.write_table(pq.read_table(small_file).select(["window_id", "features"]), bare)
    out = tmp_path / f"out.{ending}"
    arguments = ["predict", "--model-path", str(small_run.root / "crf"), "--data-path", str(bare), "--out", str(out)]
    assert run([*arguments, "--decoder", "marginal", "--threshold", "0.2", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    table = pd.read_parquet(out) if ending == "parquet" else pd.read_csv(out)
    assert table["window_id"].nunique() == numbers["num_windows"] == pq.read_table(bare).num_rows
    spans = table.dropna(subset=["expansion_start"])
    assert len(spans) == numbers["num_spans"]
    assert spans["expansion_start"].between(0, spans["expansion_end"]).all()
    assert spans["expansion_end"].between(0, 104).all()
    assert spans["probability"].between(0, 1).all()


def bars_csv(folder: Path, num_bars: int = 150) -> Path:
    """Write bars of one minute of a symbol, times in UTC."""
    close = sample_windows(num_bases=2).bars_NT4[:2].reshape(-1, 4)[:num_bars]
    lines = [f"BTC,{1704153600 + 60 * row},{','.join(map(str, bar))}" for row, bar in enumerate(close.tolist())]
    path = folder / "bars[v2].csv"
    path.write_text("symbol,time,open,high,low,close\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_predict_looks_at_the_newest_window_of_raw_bars_and_writes_when_its_spans_were(
    small_run: RunLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    out = tmp_path / f"out.{ending}"
    arguments = ["predict", "--model-path", str(small_run.root / "crf"), "--bars", str(bars_csv(tmp_path))]
    assert run([*arguments, "--out", str(out), "--decoder", "marginal", "--threshold", "0.1"]) == 0
    table = pd.read_parquet(out) if ending == "parquet" else pd.read_csv(out)
    assert len(table)
    assert set(table["instrument"]) == {"BTC"}
    assert set(pd.to_datetime(table["start_time"])) == {pd.Timestamp("2024-01-02 00:45", tz="UTC")}
    for name in ("start", "end"):
        times = pd.to_datetime(table["start_time"]) + pd.to_timedelta(table[f"expansion_{name}"], unit="min")
        assert (pd.to_datetime(table[f"expansion_{name}_time"]) == times).all()
    capsys.readouterr()
    assert run(arguments[:3]) == 2
    assert "--data-path for windows, or --bars" in capsys.readouterr().err
    assert run([*arguments[:3], "--data-path", arguments[4]]) == 2
    assert f"for raw bars, as text too: --bars {arguments[4]}" in capsys.readouterr().err


def test_a_threshold_is_one_models_and_a_folder_of_several_names_them(
    small_run: RunLayout, small_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["optimize-threshold", "--data-path", str(small_file), "--mode", "crf", "--model-path"]
    assert run([*arguments, str(small_run.root / "crf")]) == 2
    told = capsys.readouterr().err
    assert "holds 2 trainings" in told
    assert f"crf/seed0-fold1/{next((small_run.root / 'crf' / 'seed0-fold1').glob('checkpoint_*.pt')).name}" in told
    assert run([*arguments, str(small_run.root / "crf" / "seed0-fold1"), "--json"]) == 0


def test_validate_takes_raw_bars_and_their_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, labels = bars_csv(tmp_path), tmp_path / "labels.csv"
    labels.write_text("start,end,label\n1704153660,1704153780,reversal\n")
    assert run(["validate", str(path), "--labels", str(labels), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["valid"], facts["num_bars"], facts["num_spans"], facts["usual step, s"]) == (True, 150, 1, 60)
    assert run(["validate", str(path)]) == 0
    assert f"{path} is valid" in capsys.readouterr().out.replace("\n", "")
    path.write_text(path.read_text().replace("1704153660", "soon"))
    assert run(["validate", str(path), "--json"]) == 2
    (violation,) = json.loads(capsys.readouterr().out)["violations"]
    assert (violation["line"], violation["row"], violation["column"]) == (3, None, "time")


def test_raw_bars_in_parquet_are_known_from_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bars = tmp_path / "bars.parquet"
    pq.write_table(csv.read_csv(bars_csv(tmp_path)), bars)
    assert run(["validate", str(bars), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_bars"] == 150
    assert run(["compare", "--data", str(bars), "--artifacts", str(tmp_path)]) == 2
    assert "`jade window` cuts" in capsys.readouterr().err
    assert run(["window", str(bars), str(tmp_path / "out.parquet")]) == 0


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("bars[v2].csv", "use .parquet"),
        ("bars.parquet", "is read and would be overwritten"),
        ("linked.parquet", "is read and would be overwritten"),
        ("s3://bucket/out.parquet", "this machine's disk"),
        ("out.csv", "use .parquet"),
        ("out", "use .parquet"),
        ("folder.parquet", "is a folder"),
        ("bars[v2].csv/out.parquet", "is a file, not a folder"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_everything_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bars.parquet").write_text(bars_csv(Path()).read_text())
    Path("linked.parquet").hardlink_to("bars.parquet")
    Path("folder.parquet").mkdir()
    before = sorted(tmp_path.rglob("*")), Path("bars.parquet").read_bytes()
    assert run(["window", "bars.parquet", out]) == 2
    assert said in capsys.readouterr().err
    assert (sorted(tmp_path.rglob("*")), Path("bars.parquet").read_bytes()) == before


def test_a_folder_or_pattern_that_is_read_is_not_written_into(
    small_run: RunLayout, small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(small_file, data / "a.parquet")
    for source in (str(data), f"{data}/*.parquet", str(data / "b.parquet")):
        arguments = ["predict", "--model-path", str(small_run.root / "crf"), "--data-path", source]
        assert run([*arguments, "--out", str(data / "b.parquet")]) == 2
        assert "elsewhere" in (said := capsys.readouterr().err) or "overwritten" in said


def test_predict_uses_what_the_evaluation_chose(
    small_run: RunLayout, small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = json.loads((small_run.root / "soft_span" / "decoding.json").read_text())
    out = tmp_path / "out.csv"
    arguments = ["predict", "--model-path", str(small_run.root / "soft_span"), "--data-path", str(small_file)]
    assert run([*arguments, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["decoder"], told["threshold"]) == (chosen["decoder"], chosen["cutoff"])
    assert told["temperature"] == chosen["temperature"]


def test_a_decoding_that_points_out_of_its_folder_is_refused(
    small_run: RunLayout, small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "crf"
    shutil.copytree(small_run.root / "crf", folder)
    chosen = json.loads((folder / "decoding.json").read_text())
    (folder / "decoding.json").write_text(json.dumps({**chosen, "members": ["../../secret.pt"]}))
    assert run(["predict", "--model-path", str(folder), "--data-path", str(small_file)]) == 2
    assert "relative path inside" in capsys.readouterr().err


def test_train_leaves_a_run_that_optimize_threshold_reads(
    small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--loss", "crf", "--recipe", "seed", "--epochs", "1", "--data-path", str(small_file)]
    assert run([*arguments, "--artifacts", str(tmp_path), "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    checkpoint = trained["trainings"][0]["checkpoint"]
    assert Path(checkpoint).name == "checkpoint_crf_1.pt"
    flags = ["--data-path", str(small_file), "--model-path", checkpoint]
    assert run(["optimize-threshold", *flags, "--mode", "crf", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mode"] == "crf"


def test_a_failed_command_leaves_its_folder_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.commands.train.check_sources", lambda *_, **__: None)
    arguments = ["train", "--loss", "crf", "--data-path", str(tmp_path / "none.parquet")]
    assert run([*arguments, "--artifacts", str(tmp_path / "a")]) == 2
    assert "none.parquet" in capsys.readouterr().err
    (failed,) = (tmp_path / "a").glob("*/FAILED.json")
    assert json.loads(failed.read_text())["error"] == "DataError"
