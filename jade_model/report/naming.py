"""What things are called and coloured: the same everywhere in a report."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from jade_model.statistics.pool import RULE

TASKS = ("pointer", "span", "type", "countdown")
TASK_NAMES = {"pointer": "Pointers", "span": "Span", "type": "Classification", "countdown": "Countdown"}

DECODER_NAMES = {
    "threshold": "Threshold",
    "viterbi": "Viterbi path",
    "marginal": "Posterior marginals",
    "score_margin": "Score margin",
    "one_span": "One span",
}

METRIC_NAMES = {"f1": "F1 (bars)", "span_f1_iou50": "Event F1 (IoU 0.5)"}

INFERENCE = {
    "soft_span": "Simple: a threshold, O(T)",
    "crf": "Moderate: two states, O(4T)",
    "single_span": "Highest: O(T × longest span)",
}
INFERENCE_RANK = {"soft_span": 0, "crf": 1, "single_span": 2}

BOUNDARIES = {
    "soft_span": "bars are independent",
    "crf": "neighbouring bars are tied",
    "single_span": "start and end are chosen together",
}


LOSS_UNITS = {
    "soft_span": "mean over bars",
    "crf": "negative log-likelihood of a window's tags, grows with its length",
    "single_span": "negative log-probability of one start and length",
}


@dataclass(frozen=True)
class ArmStyle:
    """How one arm looks and is called.

    Attributes:
        key: Its name in `comparison.json`.
        name: In running text and table heads.
        colour: On white; tells arms apart for colour-blind readers too (Okabe and Ito's palette).
        colour_on_dark: The same hue where the page is dark.
        marker: Matplotlib's letter, so that arms differ without colour.
    """

    key: str
    name: str
    colour: str
    colour_on_dark: str
    marker: str


_KNOWN = {
    "soft_span": ArmStyle("soft_span", "Soft Span Loss", "#0072b2", "#5ab4ec", "o"),
    "crf": ArmStyle("crf", "CRF", "#d55e00", "#ff8f4d", "s"),
    "single_span": ArmStyle("single_span", "Single Span", "#00805d", "#2fc79b", "^"),
}
_OTHERS = (
    ("#9c4f86", "#d98cc0", "D"),
    ("#7a6a00", "#d9c534", "v"),
    ("#5b5bd6", "#a3a3ff", "P"),
    ("#8c5a2b", "#d7a574", "X"),
)
RULE_NAME = "Untrained rule"


def arm_styles(arms: Iterable[str]) -> dict[str, ArmStyle]:
    """Return a style for each arm: fixed for the known ones, in order of appearance for others."""
    styles: dict[str, ArmStyle] = {}
    num_others = 0
    for key in arms:
        if key in _KNOWN:
            styles[key] = _KNOWN[key]
            continue
        colour, on_dark, marker = _OTHERS[num_others % len(_OTHERS)]
        styles[key] = ArmStyle(key, key.replace("_", " "), colour, on_dark, marker)
        num_others += 1
    return styles


def decoder_name(decoder: str) -> str:
    """Return a decoder's name for people."""
    return DECODER_NAMES.get(decoder, decoder.replace("_", " "))


def metric_name(metric: str) -> str:
    """Return a metric's name for people."""
    return METRIC_NAMES.get(metric, metric)


def task_name(task: str) -> str:
    """Return a task's name for people."""
    return TASK_NAMES.get(task, task.replace("_", " ").capitalize())


def in_order(tasks: Iterable[str]) -> list[str]:
    """Return tasks in the reports' order, unknown ones last."""
    known = list(tasks)
    return [task for task in TASKS if task in known] + sorted(task for task in known if task not in TASKS)


def contestant(key: str | None, styles: dict[str, ArmStyle]) -> str:
    """Return the name of an arm or of the untrained rule."""
    if key is None:
        return "none"
    return RULE_NAME if key == RULE else styles[key].name if key in styles else key


def spelled_out(text: str, styles: dict[str, ArmStyle]) -> str:
    """Return a sentence in which the keys of arms and of the rule are replaced by their names."""
    names = {key: style.name for key, style in styles.items()} | {RULE: "(largest move)"}
    keys = sorted(names, key=len, reverse=True)
    return re.sub(rf"\b(?:{'|'.join(map(re.escape, keys))})\b", lambda found: names[found.group()], text)
