"""What is looked at first: the verdict in plain words; when, on what data, at what cost."""

from __future__ import annotations

from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.markup import code, plain
from jade_model.report.naming import contestant
from jade_model.report.numbers import count, interval, join, number, percent, plural, signed


def title(facts: Facts) -> str:
    """Return the report's first heading."""
    epochs = max(arm.epochs for arm in facts.arms)
    names = " vs ".join(arm.name for arm in facts.arms)
    return f"{plain(names)}: {epochs}-Epoch Training Comparison"


def badge(facts: Facts) -> tuple[str, str]:
    """Return the verdict in two or three words, and its kind: winner, equivalent or undecided."""
    verdict = facts.numbers.verdict
    match verdict.outcome:
        case "winner":
            return f"{contestant(verdict.winner, facts.styles)} is better", "winner"
        case "equivalent":
            return "No difference that matters", "equivalent"
        case _:
            return "Undecided", "undecided"


def headline(facts: Facts) -> list[str]:
    """Return four lines: who is better, how sure, whether training pays at all, how far to trust it."""
    return [_who(facts), _how_sure(facts), _against_rule(facts), _how_far(facts)]


def _who(facts: Facts) -> str:
    verdict = facts.numbers.verdict
    scores = join([f"{arm.name} {number(arm.decoder.f1)}" for arm in facts.ranking()])
    meaning = "(F1: 1 is every bar marked right, 0 is none)"
    match verdict.outcome:
        case "winner":
            loser = verdict.second if verdict.winner == verdict.first else verdict.first
            lead = number(abs(verdict.difference))
            others = "" if len(facts.arms) == 2 else f" over {contestant(loser, facts.styles)}, the next best"
            return (
                f"**Who is better?** **{contestant(verdict.winner, facts.styles)}**, by {lead}{others}: "
                f"{scores} {meaning}."
            )
        case "equivalent":
            pair = f"{contestant(verdict.first, facts.styles)} and {contestant(verdict.second, facts.styles)}"
            neither = "Neither" if len(facts.arms) == 2 else "Neither of the best two"
            return (
                f"**Who is better?** **{neither}, as far as it matters:** {pair} are within {verdict.margin:g} of each "
                f"other: {scores} {meaning}."
            )
        case _:
            return f"**Who is better?** **These data cannot tell.** The scores are {scores} {meaning}."


def _how_sure(facts: Facts) -> str:
    verdict = facts.numbers.verdict
    settings = facts.numbers.settings
    lead = "**How sure is that?**"
    low, high = _lead_bounds(facts)
    likely = percent(settings.confidence, 0)
    if verdict.lack == "groups":
        return (
            f"{lead} Not at all: {plural(facts.num_groups, 'base window')}, weighed by their bars, say too little of "
            "others. Six of equal weight are the least, 30 or more are usual."
        )
    if verdict.lack == "trainings":
        return (
            f"{lead} Not at all: each arm was trained too few times to tell a better arm from luck in training. "
            "3 folds or 3 seeds are the least; 3 seeds x 5 folds are usual."
        )
    trailing = contestant(verdict.second, facts.styles)
    ahead = contestant(verdict.first, facts.styles)
    if verdict.difference < 0:
        ahead, trailing = trailing, ahead
    if verdict.outcome == "winner":
        return (
            f"{lead} Luck in which windows were drawn and how training went could make the lead anything "
            f"from {number(low)} to {number(high)} ({likely} interval); it stays above 0, so luck alone "
            "does not explain it."
        )
    if verdict.outcome == "equivalent":
        return (
            f"{lead} Allowing for luck ({likely} interval), {ahead} is between {number(low)} and "
            f"{number(high)} above {trailing}; all of that is inside the margin of "
            f"{verdict.margin:g} that was set beforehand."
        )
    return (
        f"{lead} {ahead} is {number(abs(verdict.difference))} ahead of {trailing}, but luck alone "
        f"could make that anything from {number(low)} to {number(high)} ({likely} interval), which includes "
        "no lead at all." + _needed(facts)
    )


def _needed(facts: Facts) -> str:
    more, seeds = facts.numbers.verdict.groups_needed, facts.numbers.verdict.seeds_needed
    if seeds is not None and (more is None or facts.is_training_luck):
        return f" Most of that is luck in training: about {plural(int(seeds), 'more seed')} would settle it."
    if more is None:
        return ""
    return f" About {count(more)} more base windows would settle it."


def _lead_bounds(facts: Facts) -> tuple[float, float]:
    """The interval of the lead of the better of the two, not of first minus second."""
    verdict = facts.numbers.verdict
    low, high = verdict.confidence_interval
    return (low, high) if verdict.difference >= 0 else (-high, -low)


def _against_rule(facts: Facts) -> str:
    lead = "**Is training worth it?**"
    rule = facts.rule
    what = f'the untrained rule "mark the largest {facts.rule_move}", which scores {number(rule)}'
    tested = [arm for arm in facts.arms if facts.beats_rule(arm.key) is not None]
    if not tested:
        return f"{lead} It was not tested against {what}."
    winners = [arm.name for arm in tested if facts.beats_rule(arm.key)]
    losers = [arm for arm in tested if not facts.beats_rule(arm.key)]
    if not losers:
        return f"{lead} Yes: {_all(winners, 'beats', 'all beat' if len(winners) > 2 else 'both beat')} {what}."
    if winners:
        return f"{lead} {_all(winners, 'beats', 'beat')} {what}; {_failing(facts, losers)}."
    if all(facts.falls_short_of_rule(arm.key) for arm in losers):
        return f"{lead} **No: all that was trained here falls short of** {what}{_floor(facts, losers)}."
    return f"{lead} **No: nothing trained here is shown to beat** {what}{_floor(facts, losers)}."


def _failing(facts: Facts, arms: list[ArmFacts]) -> str:
    """Say who falls short of the rule for sure, and of whom it is not known."""
    short = [arm.name for arm in arms if facts.falls_short_of_rule(arm.key)]
    unsure = [arm.name for arm in arms if arm.name not in short]
    parts = [_all(short, "falls short of it", "fall short of it"), _all(unsure, "is not shown to", "are not shown to")]
    return join([part for part in parts if part])


def _all(names: list[str], does: str, do: str) -> str:
    """Return the names with the verb that agrees with their number; empty without names."""
    return f"{join(names)} {does if len(names) == 1 else do}" if names else ""


def _floor(facts: Facts, arms: list[ArmFacts]) -> str:
    under = [arm.name for arm in arms if not arm.beats_all_positive]
    who = _all(under, "is", "are")
    return f"; {who} not even shown to beat marking every bar ({number(facts.all_positive)})" if under else ""


def _how_far(facts: Facts) -> str:
    settings = facts.numbers.settings
    num_seeds = len(settings.seeds)
    parts = "one split" if settings.num_folds <= 1 else plural(settings.num_folds, "fold")
    basis = (
        f"{plural(facts.num_windows, 'window')} in {plural(facts.num_groups, 'independent group')}, "
        f"{plural(num_seeds, 'seed')} x {parts}"
    )
    if facts.leaks:
        return (
            f"**How far to trust it?** **Not far, the split leaks: {facts.leak_sentence}; scores are too "
            f"high** ({basis})."
        )
    if num_seeds <= 1:
        return (
            "**How far to trust it?** As far as one seed goes, which is little: a repetition with other "
            f"seeds may shift the scores ({basis}); a leak between training and scored windows is excluded."
            f"{_instruments(facts)}"
        )
    return (
        f"**How far to trust it?** It rests on {basis}; no bar was both trained on and scored, and thresholds "
        f"were chosen without the scored windows.{_instruments(facts)}"
    )


def _instruments(facts: Facts) -> str:
    """Say that pooled data sets are those data sets, and what holds for others if that is known."""
    names, verdict = [data.name for data in facts.numbers.data], facts.numbers.verdict
    if len(names) < 2:
        return ""
    beyond = "another instrument may differ"
    if verdict.over_datasets is not None:
        bounds = interval(verdict.over_datasets.confidence_interval, with_sign=True)
        beyond = f"over instruments like them the difference lies within {bounds}"
    return f" It holds for these {len(names)} data sets; {beyond}."


def parameters(facts: Facts) -> str:
    """Say how many parameters each arm has."""
    return join([f"{count(arm.arm.num_parameters)} ({arm.name})" for arm in facts.arms])


def epochs(facts: Facts) -> str:
    """Say how long was trained."""
    found = sorted({trained.epochs for arm in facts.arms for trained in arm.arm.runs})
    return plural(found[0], "epoch") if len(found) == 1 else f"{join(list(map(str, found)))} epochs"


def since_last(facts: Facts) -> str:
    """Say how each arm's F1 moved since the comparison before this one; empty if there was none."""
    points = [point for point in facts.report.trend or () if point.run_id != facts.numbers.run_id]
    if not points:
        return ""
    last = points[-1].run_id
    before = {point.arm: point for point in points if point.run_id == last}
    moved = [
        f"{arm.name} {number(before[arm.key].f1)} → {number(arm.decoder.f1)} "
        f"({signed(arm.decoder.f1 - before[arm.key].f1)})"
        for arm in facts.arms
        if arm.key in before
    ]
    return f"{join(moved) or 'other arms'}, against {code(last)}"


def data_line(facts: Facts) -> str:
    """Name the data sets and how they were split, four at most."""
    data = facts.numbers.data
    first = " in the first fold" if facts.numbers.settings.num_folds > 1 else ""
    sets = [
        f"{plain(item.name)} ({count(item.num_windows)} windows in {count(item.num_groups)} "
        f"groups, {item.num_train} train / {item.num_validation} validation / {item.num_test} test{first})"
        for item in data[:4]
    ]
    return "; ".join([*sets, *([f"{plural(len(data) - 4, 'further data set')}"] if len(data) > 4 else [])])


def data_alarm(facts: Facts) -> str:
    """Say which data checks are to be looked at; empty if none was made."""
    checks = [check for report in facts.report.data_checks for check in report["checks"]]
    odd = [plain(check["name"]) for check in checks if check["status"] != "passed"]
    return f"look at {join(odd)}" if odd else f"all {count(len(checks))} passed" if checks else ""


def cost(facts: Facts) -> str:
    """Say what rented machines cost."""
    rental = facts.report.run["rental"]
    replaced = sum(1 for machine in rental["machines"] if machine["problem"])
    lost = f", {plural(replaced, 'machine')} lost or replaced" if replaced else ""
    return f"{rental['cost_usd']:.2f} USD for {plural(len(rental['machines']), 'machine')}{lost}"
