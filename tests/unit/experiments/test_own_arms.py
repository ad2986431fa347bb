"""Recipes and arms of one's own: what docs/extending.md shows runs, travels, and is refused where it does not hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from helpers.runs import SMALL_PLAN, finished_run

import jade_model
from flows.cli import run
from flows.commands.options import SAMPLE_DATA, parameters_of
from flows.parameters import CompareParameters
from jade_model.core.config import LOSSES, SPAN_HEADS, Recipe
from jade_model.core.errors import CheckpointError, ConfigError
from jade_model.core.job import ARM_MODULE, load_job, run_key
from jade_model.core.recipes import recipe
from jade_model.core.span_heads.own import load_arms
from jade_model.core.windows import Windows
from tasks.core.errors import BadRequest
from tasks.core.layout import RunLayout
from tasks.execution.bundle import input_files, write_remote_job
from tasks.execution.dask import pack
from tasks.execution.dask_worker import train_files
from tasks.experiments.report import write_run_report
from tasks.experiments.sweep_plan import recipes_of

DOCS = (Path(__file__).parents[3] / "docs" / "extending.md").read_text()


def code_of(kind: str) -> str:
    """Return the page's one block of that kind."""
    (block,) = re.findall(rf"^```{kind}\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    return str(block)


HEAD = code_of("python")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    for name in [*SPAN_HEADS.keys() - set(LOSSES)]:
        del SPAN_HEADS[name]


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "my_arms.py"
    path.write_text(HEAD)
    return path


@pytest.fixture(scope="module")
def own_run(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    """A comparison of the page's arm and one of Jade's, trained in processes of their own."""
    path = tmp_path_factory.mktemp("own") / "my_arms.py"
    path.write_text(HEAD)
    load_arms(path)
    plan = replace(SMALL_PLAN, arms={"focal": "jade_focal", "soft_span": "jade_soft_span"}, arm_module=path)
    return finished_run(tmp_path_factory.mktemp("artifacts"), [str(small_file)], plan, workers=2, report=False)


def forget(name: str) -> None:
    SPAN_HEADS.pop(name, None)


def test_the_documented_arm_is_compared_and_reported(own_run: RunLayout, tmp_path: Path) -> None:
    comparison = json.loads(own_run.comparison_json.read_text())
    assert set(comparison["arms"]) == {"focal", "soft_span"}
    assert (own_run.root / ARM_MODULE).read_text() == HEAD
    # Another process, which was not given the module, reads the run and writes its report.
    forget("focal")
    write_run_report(own_run)
    (report,) = own_run.report.glob("*.md")
    assert "focal" in report.read_text()


def test_weights_of_an_own_arm_need_its_module_and_no_other(own_run: RunLayout, small_windows: Windows) -> None:
    folder = next(item.output_dir for item in load_job(own_run.job_json).trainings if item.arm == "focal")
    with pytest.raises(CheckpointError, match=r"arm 'focal'.*none was given.*--arm-module"):
        jade_model.load_model(own_run.root / folder)
    other = own_run.root.parent / "other.py"
    other.write_text(HEAD.replace("focus=2.0", "focus=1.0"))
    with pytest.raises(CheckpointError, match="the one that was given has SHA-256"):
        jade_model.load_model(own_run.root / folder, arm_module=other)
    model = jade_model.load_model(own_run.root / folder, arm_module=own_run.root / ARM_MODULE)
    assert model.loss == "focal"
    assert len(model.predict(small_windows)) >= small_windows.num_windows


def test_a_command_line_loads_the_module_that_it_names(
    own_run: RunLayout, small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget("focal")
    folder = next(item.output_dir for item in load_job(own_run.job_json).trainings if item.arm == "focal")
    line = ["predict", "--model-path", str(own_run.root / folder), "--data-path", str(small_file)]
    line += ["--out", str(tmp_path / "spans.csv")]
    assert run(line) == 2
    assert "--arm-module" in capsys.readouterr().err
    assert run([*line, "--arm-module", str(own_run.root / ARM_MODULE)]) == 0


def test_the_module_is_part_of_the_run_key_of_its_own_arms_alone(module: Path) -> None:
    def keys() -> list[str]:
        load_arms(module)
        return [
            run_key(data_sha256="", recipe=recipe(f"jade_{loss}"), seed=0, fold=0, train_rows=[0], validation_rows=[])
            for loss in ("focal", "crf")
        ]

    before = keys()
    module.write_text(HEAD + "\n# another thought\n")
    after = keys()
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_the_module_travels_with_the_job_and_in_a_parcel(own_run: RunLayout, tmp_path: Path) -> None:
    job = load_job(own_run.job_json)
    focal = next(item for item in job.trainings if item.arm == "focal")
    files = input_files(job, [focal], own_run.root)
    write_remote_job(job, [focal], "key", tmp_path / "job.json")
    assert files[ARM_MODULE].read_text() == HEAD
    assert load_job(tmp_path / "job.json").arm_module_sha256 == job.arm_module_sha256
    forget("focal")
    load_job(own_run.job_json)
    parcel = pack(job, focal, own_run.root)
    arrays = (own_run.root / job.data[0].arrays).read_bytes()
    made = train_files(parcel, arrays, tmp_path / "worker", device="cpu")
    assert any(name.startswith("checkpoint_") for name in made)


def test_reading_a_job_runs_no_module(own_run: RunLayout) -> None:
    forget("focal")
    load_job(own_run.job_json)
    assert SPAN_HEADS["focal"].implementation == ""
    with pytest.raises(ValueError, match="no arm focal"):
        CompareParameters(data=["sample"], arms=["focal", "crf"])


def test_flags_bring_the_arms_of_a_module(module: Path) -> None:
    given = parameters_of(CompareParameters, {"arm_module": str(module)}, below=SAMPLE_DATA)
    assert given.arms == [*LOSSES, "focal"]
    given = parameters_of(CompareParameters, {"arm_module": str(module), "arms": ("focal,crf",)}, below=SAMPLE_DATA)
    assert given.arms == ["focal", "crf"]
    forget("focal")
    with pytest.raises(click.UsageError, match=r"--arms: no arm focal.*--arm-module"):
        parameters_of(CompareParameters, {"arms": ("focal,crf",)}, below=SAMPLE_DATA)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("import torch\n", "import pandas\nimport torch\n", "imports pandas; an arm trains on hosts that have Python"),
        ("import torch\n", "from .mine import thing\nimport torch\n", "line 3: imports .mine"),
        ("ARMS = ", "HEADS = ", 'no ARMS; expected ARMS = {"name": Head}'),
        ('{"focal"', '{"crf"', "the name of one of Jade's own"),
        ('{"focal"', '{"Focal Loss"', "small letters"),
        ("class FocalHead(SpanHead)", "class FocalHead(torch.nn.Module)", "expected a subclass of"),
        ("    def in_span(", "    def in_the_span(", "FocalHead has no in_span"),
        ("scores_per_bar = 1 ", "scores_per_bar = 0 ", "scores_per_bar is 0"),
        (".mean(1)", ".mean()", "loss: found torch.float32 []; expected floats [4]: each window's loss"),
        (".mean(1)", ".mean(1).detach()", "loss raised RuntimeError"),
        (".mean(1)", ".mean(1) - logits_BT.mean()", "depends on the other windows of its batch"),
        ("return torch.sigmoid(self._logits(scores_BTK))", "return self._logits(scores_BTK)", "expected probabilities"),
        ("logits_BT.clamp_min(0).sum(1))", "logits_BT.sum(1))", "margin_B is"),
        ("    @torch.no_grad()\n", "", "expected none (@torch.no_grad())"),
        ("logits_BT > 0,", "logits_BT,", "path_BT is torch.float64"),
        ('("threshold", "viterbi", "one_span")', '("viterbi",)', "one_span and one of threshold"),
        ("torch.nn.Parameter(torch.zeros(()))", "torch.randn(())", "all that it learns must be in its state dict"),
        ("ARMS =", "1 / 0\nARMS =", "cannot be imported: ZeroDivisionError"),
        ("class FocalHead", "class Focal Head", "cannot be read as Python"),
    ],
)
def test_a_module_that_does_not_hold_is_refused_in_the_contracts_words(
    module: Path, old: str, new: str, told: str
) -> None:
    assert old in HEAD
    module.write_text(HEAD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_arms(module)
    assert told in str(caught.value)
    assert "focal" not in SPAN_HEADS


def test_the_documented_recipe_changes_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "my_recipe.toml"
    path.write_text(code_of("toml"))
    found = recipes_of(str(path), LOSSES)
    crf, soft = found["crf"], found["soft_span"]
    assert isinstance(crf, Recipe)
    assert isinstance(soft, Recipe)
    assert (crf.training.epochs, crf.training.learning_rate, crf.model.hidden_size) == (30, 0.002, 64)
    assert (crf.training.span_layer_rate, soft.training.span_layer_rate) == (4.0, 8.0)
    assert soft.training.dice_weight == recipe("jade_soft_span").training.dice_weight
    assert recipes_of("seed", ["crf"]) == {"crf": "seed_crf"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[training]\nlearning_rat = 1", "did you mean 'training.learning_rate'"),
        ("[training]\nepochs = 'many'", "must be a whole number"),
        ("[training]\nepochs = 0", "must be at least 1"),
        ("base = 'best'", "choose one of jade, seed"),
        ("[arms.cfr]\n", "arms.cfr is no arm"),
        ("recipe = 'jade_crf'", "`base` says"),
        ("feature_set = 'displacement-71'", "did you mean"),
        ("[training", "cannot be read as TOML"),
    ],
)
def test_a_recipe_file_with_a_mistake_is_refused(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "my_recipe.toml"
    path.write_text(text)
    with pytest.raises(BadRequest) as caught:
        recipes_of(str(path), LOSSES)
    assert told in str(caught.value)
    assert "my_recipe.toml" in str(caught.value)


def test_what_is_neither_a_family_nor_a_file_is_no_recipe() -> None:
    with pytest.raises(click.UsageError, match=r"--recipe: must be 'jade', 'seed' or a file NAME\.toml"):
        parameters_of(CompareParameters, {"recipe": "best"}, below=SAMPLE_DATA)
