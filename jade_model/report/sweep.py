"""The report of a sweep: which arm is best and how sure that is, what each setting is worth, what was stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jade_model.core.files import write_atomically
from jade_model.report.document import (
    Block,
    Bullets,
    Callout,
    Document,
    FigureBlock,
    Section,
    Table,
    Text,
    code,
    plain,
)
from jade_model.report.markdown import to_markdown
from jade_model.report.naming import metric_name
from jade_model.report.numbers import (
    count,
    duration,
    interval,
    join,
    moment,
    number,
    p_value,
    percent,
    plural,
    signed,
    with_interval,
)
from jade_model.report.section_closing import rented_blocks

MARKDOWN_NAME = "SWEEP.md"
HTML_NAME = "index.html"


@dataclass(frozen=True)
class SweepReport:
    """What the report is made of.

    Attributes:
        content: `sweep.json`.
        run: `run.json`.
    """

    content: Mapping[str, Any]
    run: Mapping[str, Any]


def write_sweep(report: SweepReport, folder: Path) -> None:
    """Write Markdown, a self-contained page and the figures into a folder; the same input gives the same bytes.

    Raises:
        OSError: A file cannot be written.
    """
    # Matplotlib takes a second to import, and `sweep_markdown` does without.
    from jade_model.report.figures_sweep import STYLES, draw_sweep
    from jade_model.report.html import plain_text, render_page

    document, figures = sweep_document(report), draw_sweep(report.content)
    for figure in figures.values():
        write_atomically(folder / figure.file_name, figure.png)
    badge, kind = _badge(report.content)
    page = render_page(document, figures, title=plain_text(document.title), badge=badge, kind=kind, styles=STYLES)
    write_atomically(folder / HTML_NAME, page)
    write_atomically(folder / MARKDOWN_NAME, to_markdown(document, figures))


def sweep_markdown(report: SweepReport) -> str:
    """Return the report without its figures."""
    return to_markdown(sweep_document(report), {})


def sweep_document(report: SweepReport) -> Document:
    """Return the report's content, without figures."""
    content = report.content
    sections = [
        _ranking(content),
        _worth(content),
        _coordinates(content),
        _stopped(content),
        _rented(report.run),
        _method(content),
    ]
    return Document(
        f"Sweep: {plural(len(content['ranking']), 'arm')}, {_badge(content)[0]}",
        _headline(content),
        _facts(report),
        tuple(section for section in sections if section is not None),
        _closing(report),
    )


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


def _headline(content: Mapping[str, Any]) -> list[str]:
    verdict, trainings = content["verdict"], content["trainings"]
    equals = verdict["equals"]
    lines = [plain(verdict["reason"])]
    if equals:
        shown = join([code(name) for name in equals[:4]]) + (f" and {len(equals) - 4} more" if len(equals) > 4 else "")
        lines.append(f"Not told apart from the best: {shown}.")
    clear = [item for item in content["ingredients"] if item["outcome"] == "winner"]
    largest = max(clear, key=lambda item: abs(item["difference"]), default=None)
    if largest is not None:
        lines.append(
            f"What matters most: {code(largest['key'])} {_value(largest['value'])} instead of "
            f"{_value(largest['reference'])}, {with_sign(largest)}."
        )
    elif content["ingredients"]:
        lines.append("No setting is shown to matter by itself.")
    spared = f", {count(trainings['spared'])} spared by stopping early" if trainings["spared"] else ""
    failed = f", **{count(trainings['failed'])} failed**" if trainings["failed"] else ""
    lines.append(f"{count(trainings['done'])} of {count(trainings['planned'])} trainings done{spared}{failed}.")
    return lines


def with_sign(item: Mapping[str, Any]) -> str:
    """Return a difference and its interval."""
    return with_interval(item["difference"], item["confidence_interval"], with_sign=True)


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


def _hosts(parameters: dict[str, Any]) -> str:
    """Where it trained; runs of old named an engine instead."""
    placement = parameters.get("placement", {})
    return join([code(name) for name in placement.get("host", [parameters.get("engine", "local")])])


def _closing(report: SweepReport) -> list[tuple[str, str]]:
    seconds = report.run.get("seconds", {})
    return [
        ("Trainings took", duration(seconds.get("train"))),
        ("Table", f"{code('results.parquet')}, one row a training; {code('units.jsonl')} says where each ran"),
        ("Created", moment(report.content["created_at"])),
    ]


def _ranking(content: Mapping[str, Any]) -> Section:
    metric, verdict = content["settings"]["metric"], content["verdict"]
    other = "span_f1_iou50" if metric == "f1" else "f1"
    rows, emphasis = [], set()
    for index, entry in enumerate(content["ranking"]):
        behind = entry.get("best_minus_this")
        rows.append(
            [
                str(entry["place"]),
                code(entry["arm"]),
                with_interval(entry.get(metric), entry.get(f"{metric}_interval")),
                number(entry.get(other)),
                "" if behind is None else with_interval(behind, entry["interval_of_difference"], with_sign=True),
                "" if behind is None else p_value(entry["adjusted_p_value"]),
                str(entry["num_seeds"]),
                _state(content, entry),
            ]
        )
        if entry["arm"] == verdict["best"] or entry["arm"] in verdict["equals"]:
            emphasis.add(index)
    level = percent(content["settings"]["confidence"], 0)
    header = (
        "Place",
        "Arm",
        metric_name(metric),
        metric_name(other),
        "Best minus this",
        "p, adjusted",
        "Seeds",
        "State",
    )
    blocks: list[Block] = [
        FigureBlock("ranking"),
        Text(
            f"Intervals hold in {level} of cases. Those of an arm's own score hold one by one; those of the "
            f"differences to "
            "the best hold for all pairs of arms at the same time, so that it does no harm that the best was "
            "chosen by its "
            "score. The score of the best itself is somewhat flattered by that choice."
        ),
        Table(header, rows, "rlrrrrrl", frozenset(emphasis)),
        *[Callout("warning", "Caveat", plain(text)) for text in verdict.get("caveats", [])],
    ]
    return Section("Ranking", blocks)


def _state(content: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    if entry["state"] == "failed":
        return "failed"
    if entry["state"] == "stopped":
        return f"stopped after round {entry['stopped']['look']}"
    if entry["arm"] == content["verdict"]["best"]:
        return "**best**"
    return "not told apart" if entry["arm"] in content["verdict"]["equals"] else "behind"


def _worth(content: Mapping[str, Any]) -> Section | None:
    if not content["ingredients"]:
        return None
    words = {"winner": "matters", "equivalent": "hardly matters", "undecided": "undecided"}
    rows = [
        [
            code(item["key"]),
            _value(item["value"]),
            _value(item["reference"]),
            with_sign(item),
            p_value(item["adjusted_p_value"]),
            str(item["pairs"]),
            words[item["outcome"]],
        ]
        for item in content["ingredients"]
    ]
    seeds = plural(len(content["seeds_of_ingredients"]), "seed")
    text = (
        "A value is compared with its setting's first one over all pairs of arms that differ in nothing else, on the "
        f"{seeds} that every arm has: arms that survived would flatter what they have in common. It is an average over "
        "the other settings; where two settings depend on each other, the ranking says more. All intervals hold "
        "together."
    )
    header = (
        "Setting",
        "Value",
        "Against",
        f"Difference in {metric_name(content['settings']['metric'])}",
        "p, adjusted",
    )
    return Section(
        "What each setting is worth",
        [FigureBlock("worth"), Text(text), Table((*header, "Pairs", "Says"), rows, "lllrrrl")],
        short="Settings",
    )


def _value(value: Any) -> str:
    return code("none" if value is None else str(value).lower() if isinstance(value, bool) else value)


def _coordinates(content: Mapping[str, Any]) -> Section | None:
    if not content["varied"] or len(content["ranking"]) < 2:
        return None
    return Section("Settings and scores", [FigureBlock("coordinates")], short="Coordinates")


def _stopped(content: Mapping[str, Any]) -> Section | None:
    stopped = [entry for entry in content["ranking"] if entry["state"] == "stopped"]
    failed = [entry for entry in content["ranking"] if entry["state"] == "failed"]
    if not stopped and not failed:
        return None
    blocks: list[Block] = []
    if stopped:
        rows = [
            [
                code(entry["arm"]),
                str(entry["stopped"]["look"]),
                code(entry["stopped"]["better"]),
                signed(entry["stopped"]["difference"]),
                interval(entry["stopped"]["confidence_interval"], with_sign=True),
            ]
            for entry in stopped
        ]
        blocks.append(Table(("Arm", "After round", "Beaten by", "Difference", "Interval"), rows, "lrlrr"))
    blocks += [Callout("warning", plain(entry["arm"]), plain("; ".join(entry["failures"]))) for entry in failed]
    return Section("Stopped and failed", blocks, short="Stopped")


def _rented(run: Mapping[str, Any]) -> Section | None:
    rental = run.get("rental")
    return Section("Rented machines", rented_blocks(rental), short="Cost") if isinstance(rental, Mapping) else None


def _method(content: Mapping[str, Any]) -> Section:
    settings = content["settings"]
    rate = settings["error_rate"]
    stopping = (
        "No arm was stopped early: that was switched off."
        if rate is None
        else "After each seed but the last, an arm is stopped if another is shown to be better. The chance that this "
        f"ever "
        f"stops an arm for one that is not better is at most {percent(rate, 0)} over the whole sweep: it is "
        f"shared in equal "
        "parts over the looks, and within a look the intervals hold for all pairs."
    )
    return Section(
        "How this was measured",
        [
            Bullets(
                [
                    "Every arm saw the same windows and splits; no split parts windows that share bars.",
                    "Temperature and cut-offs were chosen on windows that are not scored.",
                    stopping,
                    f"The ranking's intervals err in {percent(1 - settings['confidence'], 0)} of cases on top of that.",
                ]
            )
        ],
        short="Method",
    )
