"""Files, next actions, how to get the same again, the trend, and the words used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jade_model.report.actions import next_actions, run_folder
from jade_model.report.document import (
    Block,
    Bullets,
    Callout,
    Code,
    Details,
    FigureBlock,
    Section,
    Table,
    Text,
    code,
    plain,
)
from jade_model.report.facts import Facts
from jade_model.report.naming import contestant
from jade_model.report.numbers import ABSENT, count, duration, is_number, moment, number, percent, size, with_interval

TREND_LENGTH = 30
MANY_FILES = 25


def files_section(facts: Facts) -> Section | None:
    """Return what the run left behind, or None if that was not given."""
    files = facts.report.files
    if not files:
        return None
    table = Table(
        ["File", "Size", "What it is"], [[code(path), size(bytes_), plain(what)] for path, bytes_, what in files], "lrl"
    )
    folder = code(run_folder(facts))
    intro = Text(f"In {folder}:")
    blocks: list[Block] = (
        [intro, table] if len(files) <= MANY_FILES else [intro, Details(f"All {count(len(files))} files", [table])]
    )
    return Section("Files Generated", blocks, short="Files")


def actions_section(facts: Facts) -> Section:
    """Return what to do next, with commands."""
    blocks: list[Block] = []
    for index, action in enumerate(next_actions(facts), start=1):
        blocks.append(Text(f"{index}. {action.why}"))
        if action.command:
            blocks.append(Code(action.command, "bash"))
    return Section("Next Immediate Action", blocks, short="What next")


def trend_section(facts: Facts) -> Section | None:
    """Return the last comparisons, or None if there were none."""
    points = list(facts.report.trend or ())
    if not points:
        return None
    runs = list(dict.fromkeys(point.run_id for point in points))[-TREND_LENGTH:]
    rows = [
        [
            code(point.run_id),
            moment(point.created_at),
            contestant(point.arm, facts.styles),
            with_interval(point.f1, point.confidence_interval),
            number(point.separation),
            duration(point.seconds),
            ABSENT if point.cost_usd is None else f"${point.cost_usd:.2f}",
        ]
        for point in points
        if point.run_id in runs
    ]
    header = ["Comparison", "When", "Arm", "F1 (bars)", "Separation", "Training", "Cost"]
    table = Details(f"The last {count(len(runs))} comparisons", [Table(header, rows, "lllr")])
    return Section("Trend", [*_fallen(facts), FigureBlock("trend"), table])


def _fallen(facts: Facts) -> list[Block]:
    """Return what is to be said of arms that fell out of the row."""
    scores = {arm.key: (arm.name, arm.decoder["f1"]) for arm in facts.arms}
    told = [
        f"{name} scores {number(f1)}; {band['num_earlier']} earlier comparisons make {number(band['expected'])} "
        f"expected, and nothing under {number(band['low'])}."
        for band in facts.report.bands
        for name, f1 in [scores[band["arm"]]]
        if f1 is not None and f1 < band["low"]
    ]
    if told:
        return [Callout("critical", "Regression", " ".join(told))]
    if facts.report.bands:
        return [Text("Every arm scores what the comparisons before make expected.")]
    return []


def reproducibility(facts: Facts) -> Section:
    """Return identifiers, digests, settings, versions and times."""
    run, numbers, settings = facts.report.run, facts.numbers, facts.numbers["settings"]
    identity = [
        ["Run", code(numbers["run_id"])],
        ["Compared", moment(numbers["created_at"])],
        *[[plain(name), code(value)] for name, value in _flat(_version(run), "Code")],
        ["Seeds", ", ".join(map(str, settings["seeds"]))],
        ["Folds", "single split" if settings["num_folds"] <= 1 else str(settings["num_folds"])],
        ["Split", code(settings["split"])],
        ["Weights scored", f"{plain(settings['checkpoint'])} epoch, {settings['ensemble']} member(s)"],
        ["Decoder", code(settings["decoder"])],
        ["Minimum span length, merged gap", f"{settings['min_span_length']}, {settings['merge_gap']} bars"],
        ["Margin, confidence", f"{number(settings['margin'], 3)}, {percent(settings['confidence'], 0)}"],
        *[["Recipe of " + arm.name, code(arm.arm["recipe"])] for arm in facts.arms],
        *[[plain(name), plain(value)] for name, value in _flat(run.get("host"), "Host")],
        *[[plain(name), plain(value)] for name, value in _flat(run.get("versions"), "Version of")],
    ]
    data = Table(
        [
            "Data set",
            "Windows",
            "Groups",
            "Shared-bar joins",
            "Train / validation / test",
            "Bars",
            "In-span",
            "Features",
        ],
        [
            [
                plain(item["name"]),
                count(item["num_windows"]),
                count(item["num_groups"]),
                count(item["num_shared_bar_joins"]),
                f"{item['num_train']} / {item['num_validation']} / {item['num_test']}",
                count(item["window_length"]),
                percent(item["in_span_rate"]),
                plain(item["feature_set"]),
            ]
            for item in numbers["data"]
        ],
        "lrrrrrrl",
    )
    digests = Table(["Path", "SHA-256"], [[code(item["path"]), code(item["sha256"])] for item in numbers["data"]], "l")
    sections = [
        Section("Data", [data, digests]),
        Section(
            "Settings and Versions", [Details("Settings, code, host and versions", [Table(["", ""], identity, "l")])]
        ),
    ]
    timings = _timings(facts)
    if timings is not None:
        sections.append(Section("Time", [timings]))
    rental = run.get("rental")
    if isinstance(rental, Mapping):
        sections.append(Section("Rented Machines", rented_blocks(rental)))
    return Section(
        "Reproducibility",
        [Text("The same code, data and settings on the same kind of machine give the same numbers.")],
        sections,
    )


def _version(run: Mapping[str, Any]) -> Mapping[str, Any] | str:
    found = run.get("code_version") or run.get("code") or "not recorded"
    return (
        {name: value for name, value in found.items() if value is not None}
        if isinstance(found, Mapping)
        else str(found)
    )


def _flat(value: Mapping[str, Any] | str | None, label: str) -> list[tuple[str, str]]:
    if not isinstance(value, Mapping):
        return [] if value is None else [(label, str(value))]
    return [
        pair
        for key, item in value.items()
        for pair in _flat(item if isinstance(item, Mapping) else str(item), f"{label} {key}")
    ]


def _timings(facts: Facts) -> Table | None:
    run = facts.report.run
    rows = [
        [plain(str(phase).replace("_", " ")).capitalize(), duration(spent)]
        for phase, spent in (run.get("seconds") or {}).items()
    ]
    rows += [
        [f"Training, {arm.name}, all runs", duration(arm.seconds_train)]
        for arm in facts.arms
        if arm.seconds_train is not None
    ]
    overhead = run.get("overhead")
    if isinstance(overhead, Mapping):
        parts = [(str(name).replace("_", " "), spent) for name, spent in overhead.items() if is_number(spent)]
        rows += [[f"Overhead, {plain(name)}", duration(spent)] for name, spent in parts]
    elif overhead is not None:
        rows.append(["Overhead (all that is not training)", duration(overhead)])
    return Table(["What", "Time"], rows, "lr") if rows else None


def rented_blocks(rental: Mapping[str, Any]) -> list[Block]:
    """Return what was rented, what it cost, and what was tried before."""
    rows = [
        [
            plain(machine["title"]) + (" (spot)" if machine["spot"] else ""),
            f"${machine['price_usd_per_hour']:.2f}",
            f"{machine['hours']:.2f}",
            f"${machine['cost_usd']:.2f}",
            plain(machine["problem"] or machine["state"]),
        ]
        for machine in rental["machines"]
    ]
    rows += [
        [plain(item["what"]), f"${item['price_usd_per_hour']:.2f}", ABSENT, ABSENT, plain(item["outcome"])]
        for item in rental["tried"]
    ]
    told = (
        f"Machines of {plain(rental['provider'])}, {rental['cost_usd']:.2f} USD in all; with this run, all runs of the "
        f"ledger have cost {rental['spent_this_month_usd']:.2f} USD in its month. Candidates that could not be had or "
        "used are listed, too."
    )
    return [Text(told), Table(["GPU", "An hour", "Hours", "Cost", "What became of it"], rows, "lrrrl")]


def glossary(facts: Facts) -> Section:
    """Return the words of this report in plain language."""
    confidence = percent(facts.numbers["settings"]["confidence"], 0)
    return Section(
        "Words Used Here",
        [
            Bullets(
                [
                    (
                        "**F1 (bars)**: of the bars marked and the bars that should have been, how many "
                        "agree: 2 x hits / (marked + labelled). 1 is perfect, 0 is no hit. All scored bars "
                        "are counted together"
                    ),
                    (
                        "**Event F1**: the same with whole spans: a span counts as found if it overlaps a "
                        "labelled one by at least half of their union (IoU 0.5); 0.5:0.95 averages over "
                        "ever stricter overlaps"
                    ),
                    (
                        f"**Interval**: if the windows were drawn and the models trained anew, {confidence} "
                        "of such intervals would hold the true value. It comes from the spread between "
                        "independent groups of windows and between trainings"
                    ),
                    (
                        "**Group**: windows that share bars; they always stay on one side of a split, and "
                        "count as one observation"
                    ),
                    (
                        "**Margin**: the largest difference that is called none; two arms are equivalent "
                        "if the whole interval lies within it"
                    ),
                    (
                        "**Separation**: mean probability inside labelled spans minus outside. About 0: "
                        "nothing was learned"
                    ),
                    (
                        "**Untrained rule**: mark the bars of the window's largest move. **All-positive**: "
                        "mark every bar, F1 = 2p / (1 + p)"
                    ),
                ]
            )
        ],
        short="Words",
    )
