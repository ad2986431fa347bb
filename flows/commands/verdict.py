"""`jade verdict`."""

from __future__ import annotations

from typing import get_args

import click

from flows.commands.common import json_option, print_json, print_table
from jade_model.scoring.parts import Metric


@click.command("verdict")
@click.argument("predictions", nargs=-1, required=True, metavar="[NAME=]PREDICTIONS...")
@click.option("--labels", metavar="DATA", help="Labelled windows, where predictions are spans rather than counts.")
@click.option(
    "--metric", type=click.Choice(get_args(Metric)), default="f1", show_default=True, help="F1 of bars, or of spans."
)
@click.option("--margin", default=0.03, show_default=True, help="Differences in F1 up to this count as equivalent.")
@click.option("--confidence", default=0.95, show_default=True, help="Of all intervals.")
@json_option
def command(
    *, predictions: tuple[str, ...], labels: str | None, metric: Metric, margin: float, confidence: float, as_json: bool
) -> None:
    """Say which of anyone's predictions are better: the verdict alone, without training anything.

    PREDICTIONS are CSV or Parquet files of counts (group, tp, fp, fn; seed and fold if there are several trainings), or
    of spans as `jade predict` writes them, with --labels; or a run's predictions/ARM.npz. docs/python.md says more.
    """
    from jade_model.api import compare_arms

    parted = [item.partition("=") if "=" in item.partition("/")[0] else ("", "", item) for item in predictions]
    compared = compare_arms(
        *({name: path} if name else path for name, _, path in parted),
        labels=labels,
        metric=metric,
        margin=margin,
        confidence=confidence,
    )
    if as_json:
        print_json(
            {
                "verdict": compared.verdict.to_json(),
                "scores": [vars(score) for score in compared.scores],
                "differences": [item.to_json() for item in compared.differences],
            }
        )
        return
    low_high = "{:.3f} to {:.3f}".format
    rows = [
        [score.arm, score.dataset or "all", score.metric, f"{score.value:.3f}", low_high(*score.confidence_interval)]
        for score in compared.scores
    ]
    print_table(None, ["arm", "data", "metric", "F1", f"{100 * confidence:g} % interval"], rows, numeric_from=3)
    click.echo(compared.verdict.reason)
    for caveat in compared.verdict.caveats:
        click.echo(f"note: {caveat}")
