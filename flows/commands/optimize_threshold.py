"""`jade optimize-threshold`, with the original script's flags."""

from __future__ import annotations

from pathlib import Path

import click

from flows.commands.common import (
    arm_module_option,
    artifacts_option,
    json_option,
    load_arm_module,
    print_json,
    print_table,
)
from jade_model.scoring.decoding import Cleanup
from tasks.artifacts.repository import fetch_path
from tasks.experiments.thresholds import MODES, Grid, optimise_threshold


@click.command("optimize-threshold")
@click.option("--data-path", required=True, metavar="DATA", help="Labelled windows.")
@click.option(
    "--model-path",
    required=True,
    metavar="MODEL",
    help="A checkpoint or a training's folder: a path, RUN/ARM/seed0-fold1 among the artifacts, or "
    "s3://bucket/prefix/RUN/ARM/FILE.",
)
@click.option("--mode", type=click.Choice(list(MODES)), required=True, help="What the model was trained with.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--min-threshold", default=0.3, show_default=True, help="First threshold of the grid.")
@click.option("--max-threshold", default=0.7, show_default=True, help="Last threshold of the grid.")
@click.option("--step", default=0.05, show_default=True, help="Between the grid's thresholds.")
@click.option(
    "--min-span-length",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Drop shorter spans, in bars.",
)
@click.option(
    "--merge-gap",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Close gaps up to this many bars.",
)
@artifacts_option
@arm_module_option
@json_option
def command(
    *,
    data_path: str,
    model_path: str,
    mode: str,
    device: str,
    min_threshold: float,
    max_threshold: float,
    step: float,
    min_span_length: int,
    merge_gap: int,
    artifacts: str | None,
    arm_module: Path | None,
    as_json: bool,
) -> None:
    """Find the best threshold of a trained model: over every distinct probability, and on a grid.

    A threshold is never scored on the windows that it was chosen on.
    """
    load_arm_module(arm_module)
    result = optimise_threshold(
        data_path,
        fetch_path(model_path, artifacts),
        mode,
        device=device,
        grid=Grid(min_threshold, max_threshold, step),
        cleanup=Cleanup(min_span_length, merge_gap),
    )
    if as_json:
        print_json(result)
        return
    separation = result["separation"]
    click.echo(f"{result['num_scored']} windows scored: {result['how']}")
    click.echo(
        f"in-span mean {separation['in_span_mean']:.3f}, out-of-span mean {separation['out_of_span_mean']:.3f}, "
        f"separation {separation['separation']:.3f}; temperature {result['temperature']:.3g}"
    )
    names = ["f1", "precision", "recall", "span_f1_iou50"]
    untrained = result["baselines"]["untrained"]
    rows = [
        [name, "-" if scores["threshold"] is None else f"{scores['threshold']:.4g}"]
        + [f"{scores[column]:.3f}" for column in names]
        + [f"{untrained[name]['f1']:.3f}"]
        for name, scores in result["decoders"].items()
    ]
    everything = result["baselines"]["all_positive"]
    rows.append(["mark everything", "-", *(f"{everything[column]:.3f}" for column in names), "-"])
    columns = ["decoder", "threshold", "F1", "precision", "recall", "span F1", "untrained F1"]
    print_table("Thresholds chosen exactly", columns, rows)
    grid = [[f"{point['threshold']:.2f}"] + [f"{point[column]:.3f}" for column in names] for point in result["grid"]]
    print_table("Fixed thresholds", ["threshold", "F1", "precision", "recall", "span F1"], grid, numeric_from=0)
