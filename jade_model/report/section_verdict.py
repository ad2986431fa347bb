"""The verdict with everything that it rests on: differences, power, baselines, folds, data sets."""

from __future__ import annotations

import re

from jade_model.report.contract import Difference
from jade_model.report.document import Block, Bullets, Details, FigureBlock, Section, Table, Text, plain
from jade_model.report.facts import Facts
from jade_model.report.naming import (
    DECODER_NAMES,
    contestant,
    metric_name,
    spelled_out,
)
from jade_model.report.numbers import (
    ABSENT,
    count,
    interval,
    number,
    p_value,
    plural,
    signed,
    with_interval,
)


def verdict_section(facts: Facts) -> Section:
    """Return the verdict's interval, tests, power, folds and caveats."""
    verdict = facts.numbers["verdict"]
    sections = []
    if facts.numbers["differences"]:
        sections.append(_differences(facts))
    sections.append(_baselines(facts))
    if any(len(arm.decoder["per_fold"]) > 1 for arm in facts.arms):
        sections.append(_folds(facts))
    if any(len(arm.decoder["per_dataset"]) > 1 for arm in facts.arms):
        sections.append(_data_sets(facts))
    blocks: list[Block] = [Text(_statement(facts))] if len(facts.arms) > 1 else []
    if len(facts.arms) > 1:
        blocks.append(Text(_power(facts)))
    if verdict["caveats"]:
        blocks.append(Bullets([plain(spelled_out(caveat, facts.styles)) for caveat in verdict["caveats"]]))
    return Section("How Sure Is the Verdict", blocks, sections, short="How sure")


def _statement(facts: Facts) -> str:
    verdict = facts.numbers["verdict"]
    first, second = contestant(verdict["first"], facts.styles), contestant(verdict["second"], facts.styles)
    outcome = {"winner": "one arm is better", "equivalent": "equivalent", "undecided": "undecided"}[verdict["outcome"]]
    return (
        f"**{outcome.capitalize()}.** {first} minus {second}: {signed(verdict['difference'])} "
        f"{interval(verdict['confidence_interval'], with_sign=True)} in {metric_name(verdict['metric'])}, "
        f"read out by {_decoders(facts, verdict['decoder'])}. Differences up to "
        f"{number(verdict['margin'], 3)} count as none (the margin, a setting)."
    )


def _decoders(facts: Facts, text: str | None) -> str:
    if text is None:
        return "each arm's best decoder"
    names = {
        **{key: style.name for key, style in facts.styles.items()},
        **{key: name.lower() for key, name in DECODER_NAMES.items()},
    }
    keys = sorted(names, key=len, reverse=True)
    return plain(re.sub(rf"\b(?:{'|'.join(map(re.escape, keys))})\b", lambda found: names[found.group()], text))


def _power(facts: Facts) -> str:
    verdict = facts.numbers["verdict"]
    more = verdict["groups_needed"]
    seen = (
        f"With these data ({plural(facts.num_groups, 'group')} of windows) a difference under "
        f"{number(verdict['detectable_difference'])} cannot be seen reliably (80 % of the time)"
    )
    if verdict["detectable_difference"] is None:
        return (
            f"With these data ({plural(facts.num_groups, 'group')} of windows) the smallest visible "
            "difference is not known."
        )
    if verdict["outcome"] != "undecided":
        return f"**Power.** {seen}; the question above is decided, so no more data are needed for it."
    if verdict.get("lack") is not None:
        return "**Power.** This design gives no verdict, whatever the scores: see the sentence at the top."
    seeds = verdict.get("seeds_needed")
    ways = [
        *([] if more is None else [f"about {count(more)} more base windows at the same seeds and folds"]),
        *([] if seeds is None else [f"{plural(int(seeds), 'more seed')} on the same windows"]),
    ]
    if not ways:
        return f"**Power.** {seen}; neither more base windows nor more seeds alone would decide, it takes both."
    return f"**Power.** {seen}; {' or '.join(ways)} would decide, if the difference stays what it is."


def _differences(facts: Facts) -> Section:
    pooled = [item for item in facts.numbers["differences"] if item["dataset"] is None]
    single = [item for item in facts.numbers["differences"] if item["dataset"] is not None]
    blocks: list[Block] = [
        Text(
            "Each line is first minus second on the same windows. The interval and the adjusted p-value "
            "allow for all comparisons of their kind being made at once."
        ),
        _difference_table(facts, pooled),
        FigureBlock("differences"),
    ]
    if single:
        blocks.append(Details("Differences by data set", [_difference_table(facts, single, with_dataset=True)]))
    return Section("Differences", blocks)


def _difference_table(facts: Facts, items: list[Difference], *, with_dataset: bool = False) -> Table:
    header = ["First minus second", "Metric", "Difference", "Interval", "p", "Adjusted p", "Outcome"]
    rows = []
    for item in items:
        pair = f"{contestant(item['first'], facts.styles)} − {contestant(item['second'], facts.styles)}"
        rows.append(
            [
                f"{pair} ({plain(item['dataset'])})" if with_dataset else pair,
                metric_name(item["metric"]),
                signed(item["difference"]),
                interval(item["confidence_interval"], with_sign=True),
                p_value(item["p_value"]),
                p_value(item["adjusted_p_value"]),
                _outcome(facts, item),
            ]
        )
    return Table(header, rows, "llrrrrl")


def _outcome(facts: Facts, item: Difference) -> str:
    if item["outcome"] != "winner":
        return item["outcome"]
    better = item["first"] if (item["difference"] or 0.0) > 0 else item["second"]
    return f"**{contestant(better, facts.styles)}** better"


def _baselines(facts: Facts) -> Section:
    baselines = facts.numbers["baselines"]
    rule = baselines["largest_move"]
    rows = [
        [
            "Marking every bar",
            number(baselines["all_positive"]["f1"]),
            number(baselines["all_positive"]["span_f1_iou50"]),
        ],
        *[
            [
                f"{arm.name}, untrained",
                number(arm.arm["summary"]["untrained"]["f1"]),
                number(arm.arm["summary"]["untrained"]["span_f1_iou50"]),
            ]
            for arm in facts.arms
        ],
        [
            f"Untrained rule: largest {facts.rule_move}",
            with_interval(rule["f1"], rule.get("confidence_interval")),
            number(rule["span_f1_iou50"]),
        ],
        *[
            [
                f"**{arm.name}**",
                f"**{with_interval(arm.decoder['f1'], arm.decoder['confidence_interval'])}**",
                f"**{with_interval(arm.decoder['span_f1_iou50'], arm.decoder.get('span_confidence_interval'))}**",
            ]
            for arm in facts.arms
        ],
    ]
    fails = [f"**{a.name}: {facts.against_rule(a.key)}**" for a in facts.arms if facts.beats_rule(a.key) is False]
    note = (
        f"{'; '.join(fails)}. A rule costs no training, so an arm that does not beat it has not earned its place."
        if fails
        else "What a score means shows only beside what costs nothing."
    )
    return Section("Baselines", [Text(note), Table(["", "F1 (bars)", "Event F1 (IoU 0.5)"], rows, "lr")])


def _folds(facts: Facts) -> Section:
    header = ["Data set", "Seed", "Fold", *[a.name for a in facts.arms], *[f"{a.name} (event)" for a in facts.arms]]
    by_arm = [
        {(item["dataset"], item["seed"], item["fold"]): item for item in arm.decoder["per_fold"]} for arm in facts.arms
    ]
    keys = sorted({key for scores in by_arm for key in scores})
    rows = [
        [plain(dataset), str(seed), str(fold)]
        + [
            number(scores[dataset, seed, fold]["f1"]) if (dataset, seed, fold) in scores else ABSENT
            for scores in by_arm
        ]
        + [
            number(scores[dataset, seed, fold]["span_f1_iou50"]) if (dataset, seed, fold) in scores else ABSENT
            for scores in by_arm
        ]
        for dataset, seed, fold in keys
    ]
    return Section(
        "Fold by Fold",
        [FigureBlock("folds"), Details("Every scored part", [Table(header, rows, "lr")])],
    )


def _data_sets(facts: Facts) -> Section:
    names = [data["name"] for data in facts.numbers["data"]]
    rows = []
    for name in names:
        cells = [arm.decoder["per_dataset"].get(name) for arm in facts.arms]
        rows.append(
            [
                plain(name),
                *[ABSENT if cell is None else with_interval(cell["f1"], cell["confidence_interval"]) for cell in cells],
            ]
        )
    rows.append(
        [
            "**All, pooled**",
            *[f"**{with_interval(a.decoder['f1'], a.decoder['confidence_interval'])}**" for a in facts.arms],
        ]
    )
    return Section(
        "Data Set by Data Set",
        [
            Text("Each instrument has its own interval; the verdict pools them."),
            Table(["F1 (bars)", *[a.name for a in facts.arms]], rows, "lr", frozenset({len(rows) - 1})),
        ],
    )
