"""Puts a report together: the order of the sections is the order in which questions arise."""

from __future__ import annotations

from jade_model.report.actions import next_actions
from jade_model.report.document import Document, code, plain
from jade_model.report.facts import Facts
from jade_model.report.headline import badge, headline, title
from jade_model.report.numbers import count, join, moment, plural
from jade_model.report.section_closing import (
    actions_section,
    files_section,
    glossary,
    reproducibility,
    trend_section,
)
from jade_model.report.section_data import data_section
from jade_model.report.section_gallery import gallery_section
from jade_model.report.section_insights import insights_section
from jade_model.report.section_probability import calibration_section, distribution_section, heads_section
from jade_model.report.section_recommendation import recommendation
from jade_model.report.section_summary import executive_summary
from jade_model.report.section_thresholds import threshold_section
from jade_model.report.section_training import loss_section, weights_section
from jade_model.report.section_verdict import verdict_section


def build_document(facts: Facts) -> Document:
    """Return the report's content, without figures."""
    sections = [
        executive_summary(facts),
        verdict_section(facts),
        insights_section(facts),
        loss_section(facts),
        weights_section(facts),
        distribution_section(facts),
        calibration_section(facts),
        heads_section(facts),
        threshold_section(facts),
        gallery_section(facts),
        recommendation(facts),
        trend_section(facts),
        data_section(facts.report.data_checks),
        files_section(facts),
        actions_section(facts),
        reproducibility(facts),
        glossary(facts),
    ]
    return Document(
        title(facts), headline(facts), _facts_line(facts), tuple(s for s in sections if s is not None), _closing(facts)
    )


def _closing(facts: Facts) -> list[tuple[str, str]]:
    label, _kind = badge(facts)
    action = next_actions(facts)[0]
    return [
        (
            "Status",
            (
                f"{plural(facts.num_runs, 'training')} done and scored; "
                f"{label[0].lower() + label[1:] if label[1:2].islower() else label}"
            ),
        ),
        ("Next", action.why),
        ("Created", moment(facts.numbers["created_at"])),
    ]


def _facts_line(facts: Facts) -> list[tuple[str, str]]:
    numbers = facts.numbers
    settings = numbers["settings"]
    data = numbers["data"]
    sets = [
        f"{plain(item['name'])} ({count(item['num_windows'])} windows in {count(item['num_groups'])} "
        f"groups, {item['num_train']} train / {item['num_validation']} validation / {item['num_test']} test)"
        for item in data[:4]
    ]
    if len(data) > 4:
        sets.append(f"{plural(len(data) - 4, 'further data set')}")
    parameters = join([f"{count(arm.arm['num_parameters'])} ({arm.name})" for arm in facts.arms])
    repetition = f"{plural(len(settings['seeds']), 'seed')} x " + (
        "a single split" if settings["num_folds"] <= 1 else plural(settings["num_folds"], "fold")
    )
    epochs = sorted({run["epochs"] for arm in facts.arms for run in arm.arm["runs"]})
    recipes = join([code(name) for name in dict.fromkeys(arm.arm["recipe"] for arm in facts.arms)])
    return [
        ("Date", moment(numbers["created_at"])),
        ("Run", code(numbers["run_id"])),
        ("Dataset", "; ".join(sets)),
        ("Model", f"JadeCompact, {parameters} parameters"),
        (
            "Training",
            (
                f"{join([str(e) for e in epochs]) or 'no'} epochs, recipes {recipes}, {repetition}, "
                f"{code(settings['split'])} split"
            ),
        ),
    ]
