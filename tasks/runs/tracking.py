"""What MLflow is told of a run, from its files and from its epochs.

Telling can be repeated: what MLflow knows already stays as it is, what it lacks is added. A run is a parent run in
MLflow, each of its trainings a child.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jade_model.comparison.files import read_comparison
from jade_model.core.errors import JadeError
from jade_model.core.job import Job, Training, load_job
from jade_model.core.training_files import files_of, is_done
from tasks.core.errors import BadRequest, RunError, TaskError
from tasks.core.layout import RunLayout
from tasks.settings.load import load_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "jade"
RUN_TAG, KIND_TAG, TRAINING_TAG, TOLD_TAG = "jade.run", "jade.kind", "jade.training", "jade.told"
BATCH = 1000
"""Metrics that MLflow takes in one request."""

_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # Results go to standard output, for programs.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""MLflow's own are two minutes and seven tries; and it tells terminals what it does."""

_PER_EPOCH = (
    "train_losses",
    "validation_losses",
    "sigma",
    "task_weight",
    "learning_rate",
    "gradient_norm",
    "seconds",
    "validation_f1",
)


class TrackingError(RunError):
    """MLflow was not told, and why."""


def tracks(wanted: str | None) -> bool:
    """Whether runs are told to MLflow: as the parameters say, else the settings.

    Raises:
        BadRequest: They are, and MLflow is not installed.
    """
    if (wanted or load_settings().track) != "mlflow":
        return False
    if importlib.util.find_spec("mlflow") is None:
        raise BadRequest(
            "tracking needs MLflow: `pip install 'jade-expansions[mlflow]'` (in a checkout: "
            "`.venv/bin/pip install -c constraints.txt -e '.[mlflow]'`), or `--track none`"
        )
    return True


def open_client() -> MlflowClient:
    """Return a client of the server, or database, that `MLFLOW_TRACKING_URI` names; asks nothing of it yet."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Of MLflow's own types, as they are imported.
    warnings.filterwarnings("ignore", message=".*Any type hint is inferred", category=UserWarning)
    # Bars may have any of several columns for their times, which no signature of MLflow's can say.
    logging.getLogger("mlflow.pyfunc").addFilter(lambda entry: "infer model signature" not in entry.getMessage())
    from mlflow import MlflowClient

    return MlflowClient()


def tell_run(layout: RunLayout, address: str, *, is_running: bool = False) -> str:
    """Tell MLflow all that a run's files say; again and again without harm.

    Args:
        layout: The run.
        address: Of the place that keeps it: where checkpoints are linked to.
        is_running: Whether a flow is at it: then what is open in MLflow stays open.

    Returns:
        The run's identifier in MLflow.

    Raises:
        TrackingError: MLflow is not installed, does not answer, or refuses.
        RunNotFound: There is no readable `run.json`.
    """
    try:
        return Teller(layout, address, open_client()).tell(is_running=is_running)
    except (JadeError, TaskError):
        raise
    except Exception as error:  # MLflow's client raises its own, those of requests, and those of its databases
        raise TrackingError(f"MLflow was not told all of {layout.run_id}: {short(error)}") from error


class Teller:
    """Tells MLflow of one run. Every method may be repeated.

    Args:
        layout: The run.
        address: Of the place that keeps it.
        client: Of MLflow.
    """

    def __init__(self, layout: RunLayout, address: str, client: MlflowClient) -> None:
        self._layout, self._client = layout, client
        self._link = f"{address.rstrip('/')}/{layout.run_id}"
        self._record: dict[str, Any] = json.loads(layout.run_json.read_text("utf-8"))
        self._parent = ""
        self._children: dict[str, str] = {}
        self._complete: set[str] = set()

    def tell(self, *, is_running: bool) -> str:
        """Tell all of it; return the identifier of the parent run."""
        parent = self.open()
        job = load_job(self._layout.job_json) if self._layout.job_json.is_file() else None
        for training in job.trainings if job is not None else ():
            self.training(training, is_over=not is_running)
        if job is not None:
            self._log(parent, tags={"jade.data": _digests(job)})
        self._result(parent)
        if not is_running:
            state = {"completed": "FINISHED", "failed": "FAILED"}.get(self._record["state"], "KILLED")
            self._client.set_terminated(parent, state, _milliseconds(self._record.get("finished_at")))
        return parent

    def open(self) -> str:
        """Find or make the parent run; return its identifier."""
        if self._parent:
            return self._parent
        experiment = self._experiment()
        known = list(self._known(experiment))
        parents = [run for run in known if run.data.tags.get(KIND_TAG) == "run"]
        command = " ".join(map(str, self._record.get("command", [])))
        tags = {
            **self._tags("run"),
            # Prefect's own program runs what a worker starts.
            "mlflow.source.name": f"flow {self._record['flow']}" if command == "engine.py" else command or "jade",
            "jade.folder": self._link,
        }
        if parents:
            self._parent = parents[0].info.run_id
        else:
            started = _milliseconds(self._record["started_at"])
            # Lists show the first twenty characters of a name.
            moment, _, name = self._layout.run_id.partition("-")
            self._parent = self._client.create_run(experiment, started, tags, f"{name} {moment}").info.run_id
            self._log(self._parent, params=dict(_texts(self._record.get("parameters", {}))))
        for run in known:
            if key := run.data.tags.get(TRAINING_TAG):
                self._children[key] = run.info.run_id
                if TOLD_TAG in run.data.tags:
                    self._complete.add(key)
        return self._parent

    def epochs(self, training: Training, records: Sequence[Mapping[str, Any]], *, at: int | None = None) -> None:
        """Tell the metrics of some epochs, as the trainer writes them."""
        from mlflow.entities import Metric

        moment = _now() if at is None else at
        self._log(
            self._child(training),
            metrics=[
                Metric(name, value, moment, int(record["epoch"]))
                for record in records
                for name, value in _numbers(_of_epoch(record))
            ],
        )

    def training(self, training: Training, *, is_over: bool = True) -> None:
        """Tell what a training's files say: what is missing of its epochs, where its checkpoint lies, how it ended."""
        self.open()
        files = files_of(training, self._layout.root)
        finished = is_done(training, files)
        has_begun = files.folder.is_dir() or training.run_key in self._children
        if training.run_key in self._complete or not has_begun:
            return  # a sweep has trainings that never come to it
        child = self._child(training)
        lines = files.history.read_text("utf-8").splitlines() if files.history.is_file() else []
        known = {metric.step for metric in self._client.get_metric_history(child, "loss/train")}
        self.epochs(training, [entry for line in lines if (entry := json.loads(line))["epoch"] not in known])
        if finished:
            path = f"{self._link}/{files.last.relative_to(self._layout.root).as_posix()}"
            self._log(child, tags={"jade.checkpoint": path, TOLD_TAG: "yes"})
            self._client.set_terminated(child, "FINISHED")
            self._complete.add(training.run_key)
        elif is_over:
            self._client.set_terminated(child, "FAILED")

    def _experiment(self) -> str:
        if identifier := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return identifier
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except Exception:
                # Two runs may begin at once.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _known(self, experiment: str) -> Iterator[Any]:
        token: str | None = None
        while True:
            wanted = f"tags.`{RUN_TAG}` = '{self._layout.run_id}'"
            page = self._client.search_runs([experiment], wanted, max_results=BATCH, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _tags(self, kind: str) -> dict[str, str]:
        code = self._record.get("code", {})
        return {
            RUN_TAG: self._layout.run_id,
            KIND_TAG: kind,
            "jade.flow": str(self._record.get("flow", "")),
            "jade.code": str(code.get("digest", "")),
            "mlflow.source.git.commit": str(code.get("commit") or ""),
            "jade.version": str(code.get("version", "")),
        }

    def _child(self, training: Training) -> str:
        parent = self.open()
        if training.run_key not in self._children:
            experiment = self._client.get_run(parent).info.experiment_id
            data = next(item for item in load_job(self._layout.job_json).data if item.name == training.dataset)
            tags = {
                **self._tags("training"),
                "mlflow.parentRunId": parent,
                TRAINING_TAG: training.run_key,
                "jade.arm": training.arm,
                "jade.dataset": training.dataset,
                "jade.seed": str(training.seed),
                "jade.fold": str(training.fold),
                "jade.data": data.sha256,
            }
            created = self._client.create_run(experiment, _now(), tags, training.title)
            self._children[training.run_key] = created.info.run_id
            from jade_model.core.config import to_json

            recipe = {"recipe": to_json(training.recipe), "seed": training.seed, "fold": training.fold}
            self._log(created.info.run_id, params=dict(_texts(recipe)))
        return self._children[training.run_key]

    def _result(self, parent: str) -> None:
        """Tell the verdict and its numbers, and send the report."""
        from mlflow.entities import Metric

        layout, tags, numbers = self._layout, {}, {}
        if layout.comparison_json.is_file():
            comparison = read_comparison(layout.comparison_json)
            numbers, verdict = dict(_comparison_numbers(comparison)), comparison["verdict"]
            tags = {"jade.verdict": verdict["outcome"], "mlflow.note.content": f"{verdict['reason']}\n\n{self._link}"}
            if verdict["winner"]:
                tags["jade.winner"] = verdict["winner"]
        for path, numbers_of in ((layout.sweep_json, _ranking_numbers), (layout.card_json, _judgement_numbers)):
            if path.is_file():
                content = json.loads(path.read_text("utf-8"))
                numbers |= dict(numbers_of(content))
                said = content.get("verdict") or content.get("decision") or {}
                tags["mlflow.note.content"] = f"{said.get('reason', '')}\n\n{self._link}"
        moment = _milliseconds(self._record.get("finished_at") or self._record["started_at"])
        self._log(parent, metrics=[Metric(name, value, moment, 0) for name, value in numbers.items()], tags=tags)
        for path in (layout.run_json, layout.comparison_json, layout.sweep_json, layout.card_json, layout.failed_json):
            if path.is_file():
                self._client.log_artifact(parent, str(path))
        if layout.report.is_dir():
            self._client.log_artifacts(parent, str(layout.report), "report")

    def _log(
        self,
        run: str,
        *,
        metrics: Sequence[Any] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Param, RunTag

        for first in range(0, len(metrics), BATCH):
            self._client.log_batch(run, metrics=metrics[first : first + BATCH])
        given = [Param(name, value) for name, value in (params or {}).items()]
        for first in range(0, len(given), 100):
            self._client.log_batch(run, params=given[first : first + 100])
        if tags:
            self._client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])


def short(error: BaseException) -> str:
    """Return the first line of an error, with nothing in it of a password that an address may hold."""
    text = (str(error).splitlines() or [""])[0] or type(error).__name__
    return re.sub(r"//[^/@\s]*@", "//***@", text)[:300]


def _of_epoch(record: Mapping[str, Any]) -> dict[str, Any]:
    # The first section of a page of charts; without a section, the totals would come last of all.
    totals = {"train": record.get("train_loss"), "validation": record.get("validation_loss")}
    return {"loss": totals} | {key: record.get(key) for key in _PER_EPOCH}


def _comparison_numbers(comparison: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    verdict = comparison["verdict"]
    # One decoder, or `crf: marginal, soft_span: one_span`.
    judged = dict(part.split(": ") for part in str(verdict.get("decoder")).split(", ") if ": " in part)
    for name, arm in comparison["arms"].items():
        decoders = arm["summary"]["decoders"]
        used = judged.get(name, verdict.get("decoder"))
        used = used if used in decoders else arm["summary"]["best_decoder"]
        yield from _numbers({name: _scores(decoders[used]) | {"calibration": arm["summary"].get("calibration")}})
    for name, rule in comparison["baselines"].items():
        yield from _numbers({f"baseline/{name}": _scores(rule or {})})
    for item in comparison["differences"]:
        if item["dataset"] is None:
            yield from _numbers({f"difference/{item['first']}-{item['second']}/{item['metric']}": _difference(item)})
    kept = ("difference", "confidence_interval", "margin", "detectable_difference", "groups_needed")
    yield from _numbers({"verdict": {key: verdict.get(key) for key in kept}})


def _scores(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Name intervals after what they are of."""
    intervals = {"confidence_interval": "f1_interval", "span_confidence_interval": "span_f1_iou50_interval"}
    return {intervals.get(key, key): value for key, value in numbers.items() if not key.startswith("per_")}


def _ranking_numbers(sweep: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    # MLflow has names, not places.
    for entry in sweep.get("ranking") or ():
        yield from _numbers({f"ranking/{entry['arm']}": entry})


def _judgement_numbers(card: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    judgement = card.get("judgement") or {}
    yield from _numbers({"judgement": {key: value for key, value in judgement.items() if not isinstance(value, list)}})
    for item in (*judgement.get("scores", ()), *judgement.get("differences", ())):
        about = f"judgement/{item['arm']}" if "arm" in item else f"difference/{item['first']}-{item['second']}"
        name, metric = f"{about}/{item['dataset']}" if item["dataset"] else about, item["metric"]
        scores = {metric: item.get("value"), f"{metric}_interval": item["confidence_interval"]}
        yield from _numbers({name: scores if "arm" in item else {metric: _difference(item)}})


def _difference(item: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("difference", "confidence_interval", "p_value", "adjusted_p_value", "detectable_difference")
    return {key: item.get(key) for key in kept}


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Give each finite number below a value by its path; a pair is an interval. MLflow's UI groups names by slashes."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}/{key}" if name else str(key))
    elif isinstance(value, list) and len(value) == 2:
        stem = name.removesuffix("confidence_interval").removesuffix("_interval")
        for end, inner in zip(("low", "high"), value, strict=True):
            yield from _numbers(inner, f"{stem}{end}" if stem.endswith("/") else f"{stem.rstrip('_')}_{end}")
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield re.sub(r"[^\w\-. :/]", "-", name)[:250], float(value)


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{name}.{key}" if name else str(key))
    elif name:
        yield re.sub(r"[^\w\-. :/]", "-", name)[:250], str(value)[:500]


def _digests(job: Job) -> str:
    return ",".join(item.sha256 for item in job.data)


def _milliseconds(moment: str | None) -> int:
    return _now() if moment is None else int(datetime.fromisoformat(moment).timestamp() * 1000)


def _now() -> int:
    return int(time.time() * 1000)
