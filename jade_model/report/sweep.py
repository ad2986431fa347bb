"""The report of a sweep: which arm is best and how sure that is, what each setting is worth, what was stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jade_model.report.markup import Rows, Source, code, plain, render, to_markdown
from jade_model.report.naming import metric_name
from jade_model.report.numbers import count, join, moment, number, p_value, plural, with_interval
from jade_model.report.view.closing import PARTS
from jade_model.report.writing import ReportFiles, write_files
from jade_model.statistics.verdict import NOT_BEATEN

MARKDOWN_NAME = "SWEEP.md"


@dataclass(frozen=True)
class SweepReport:
    """What the report is made of.

    Attributes:
        content: `sweep.json`.
        run: `run.json`.
    """

    content: Mapping[str, Any]
    run: Mapping[str, Any]


def write_sweep(report: SweepReport, folder: Path) -> ReportFiles:
    """Write Markdown, a self-contained page and the figures into a folder; the same input gives the same bytes.

    Raises:
        OSError: A file cannot be written.
    """
    # Matplotlib takes a second to import, and `sweep_markdown` does without.
    from jade_model.report.figures.sweep import STYLES, draw_sweep
    from jade_model.report.page import to_page

    source, figures = _source(report), draw_sweep(report.content)
    page = to_page(source, figures, badge=_badge(report.content), styles=STYLES.values())
    return write_files(folder, MARKDOWN_NAME, source, figures, page)


def sweep_markdown(report: SweepReport) -> str:
    """Return the report without its figures."""
    return to_markdown(_source(report), {})


def _source(report: SweepReport) -> Source:
    content, metric = report.content, report.content["settings"]["metric"]
    context = {
        "content": content,
        "settings": content["settings"],
        "run": report.run,
        "title": f"Sweep: {plural(len(content['ranking']), 'arm')}, {_badge(content)[0]}",
        "headline": _headline(content),
        "first_screen": _facts(report),
        "metric": metric_name(metric),
        "other_metric": metric_name(_other(metric)),
        "caveats": _caveats(content),
        "ranking_rows": _ranking_rows(content),
        "value": _value,
        "num_seeds": len(content["seeds_of_ingredients"]),
        "stopped": [entry for entry in content["ranking"] if entry["state"] == "stopped"],
        "failed": [entry for entry in content["ranking"] if entry["state"] == "failed"],
        **PARTS,
    }
    return render("sweep.md.j2", context)


def _other(metric: str) -> str:
    return "span_f1_iou50" if metric == "f1" else "f1"


def _badge(content: Mapping[str, Any]) -> tuple[str, str]:
    verdict = content["verdict"]
    if verdict["best"] is None:
        return "nothing to rank", "undecided"
    match verdict["outcome"]:
        case "winner":
            return f"{verdict['best']} is best", "winner"
        case "equivalent":
            return "no difference that matters", "equivalent"
        case _:
            return f"{verdict['best']} leads, undecided", "undecided"


def _caveats(content: Mapping[str, Any]) -> list[str]:
    """Return what to know before acting on it; the arms that the untrained rule equals are one caveat, not one each."""
    said = content["verdict"].get("caveats", [])
    behind = [caveat.partition(f" {NOT_BEATEN}")[0] for caveat in said if NOT_BEATEN in caveat]
    caveats = [plain(caveat) for caveat in said if NOT_BEATEN not in caveat]
    if behind:
        of = f"{len(behind)} of {plural(len(content['ranking']), 'arm')}"
        caveats.append(f"Not shown to beat the untrained rule, {of}: {_listed(behind)}.")
    return caveats


def _listed(names: Sequence[str]) -> str:
    """Name four at most."""
    return join([code(name) for name in names[:4]]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _headline(content: Mapping[str, Any]) -> list[str]:
    verdict, trainings = content["verdict"], content["trainings"]
    equals = verdict["equals"]
    lines = [plain(verdict["reason"])]
    if equals:
        lines.append(f"Not told apart from the best: {_listed(equals)}.")
    clear = [item for item in content["ingredients"] if item["outcome"] == "winner"]
    largest = max(clear, key=lambda item: abs(item["difference"]), default=None)
    if largest is not None:
        lines.append(
            f"What matters most: {code(largest['key'])} {_value(largest['value'])} instead of "
            f"{_value(largest['reference'])}, "
            f"{with_interval(largest['difference'], largest['confidence_interval'], with_sign=True)}."
        )
    elif content["ingredients"]:
        lines.append("No setting is shown to matter by itself.")
    spared = f", {count(trainings['spared'])} spared by stopping early" if trainings["spared"] else ""
    failed = f", **{count(trainings['failed'])} failed**" if trainings["failed"] else ""
    lines.append(f"{count(trainings['done'])} of {count(trainings['planned'])} trainings done{spared}{failed}.")
    return lines


def _facts(report: SweepReport) -> list[tuple[str, str]]:
    content, settings = report.content, report.content["settings"]
    sets = [
        f"{plain(item['name'])} ({count(item['num_windows'])} windows in {count(item['num_groups'])} groups)"
        for item in content["data"]
    ]
    varied = [f"{code(key)} ({plural(len(values), 'value')})" for key, values in content["varied"].items()]
    folds = "a single split" if settings["folds"] == 1 else plural(settings["folds"], "fold")
    return [
        ("Date", moment(content["created_at"])),
        ("Run", code(content["run_id"])),
        ("Dataset", "; ".join(sets)),
        ("Varied", join(varied)),
        ("Repetition", f"{plural(settings['seeds'], 'seed')} x {folds}"),
        ("Trained on", _hosts(report.run.get("parameters", {}))),
    ]


def _hosts(parameters: Mapping[str, Any]) -> str:
    """Where it trained; runs of old named an engine instead."""
    placement = parameters.get("placement", {})
    return join([code(name) for name in placement.get("host", [parameters.get("engine", "local")])])


def _ranking_rows(content: Mapping[str, Any]) -> Rows:
    metric = content["settings"]["metric"]
    rows = []
    for entry in content["ranking"]:
        behind = entry.get("best_minus_this")
        rows.append(
            [
                str(entry["place"]),
                code(entry["arm"]),
                with_interval(entry.get(metric), entry.get(f"{metric}_interval")),
                number(entry.get(_other(metric))),
                "" if behind is None else with_interval(behind, entry["interval_of_difference"], with_sign=True),
                "" if behind is None else p_value(entry["adjusted_p_value"]),
                str(entry["num_seeds"]),
                _state(content, entry),
            ]
        )
    return rows


def _state(content: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    if entry["state"] == "failed":
        return "failed"
    if entry["state"] == "stopped":
        return f"stopped after round {entry['stopped']['look']}"
    if entry["arm"] == content["verdict"]["best"]:
        return "**best**"
    return "not told apart" if entry["arm"] in content["verdict"]["equals"] else "behind"


def _value(value: Any) -> str:
    return code("none" if value is None else str(value).lower() if isinstance(value, bool) else value)
