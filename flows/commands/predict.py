"""`jade predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from flows.commands.common import arm_module_option, artifacts_option, json_option, load_arm_module, tell
from flows.commands.reading import check_output, reading_of, reading_options, refuse, tell_notes
from jade_model.data.cutting import newest_windows
from jade_model.scoring.decoding import DECODERS, DecoderChoice, DecoderName
from jade_model.scoring.trained import open_model
from tasks.experiments.predict import predict_file, predict_newest
from tasks.experiments.promote import model_of

TEXT = {".csv", ".txt", ".tsv"}


@click.command("predict")
@click.option(
    "--model-path",
    required=True,
    metavar="MODEL",
    help="A checkpoint, or a training's folder: a path, RUN/ARM among the artifacts, s3://bucket/prefix/RUN/ARM, "
    "or `champion`.",
)
@click.option(
    "--data-path",
    metavar="DATA",
    help="Windows: a file, folder or glob, or `sample`; needs only window_id and features.",
)
@click.option(
    "--bars",
    type=click.Path(path_type=Path),
    help="Instead of windows: raw bars as `jade window` reads them, whose newest window is looked at.",
)
@click.option("--instrument", default="", help="Of the bars, instead of the file's.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="predictions.parquet",
    show_default=True,
    help="Ends in .parquet or .csv.",
)
@click.option("--decoder", type=click.Choice(DECODERS), help="Instead of the one chosen when the model was evaluated.")
@click.option("--threshold", type=float, help="Threshold of the decoder, likewise.")
@click.option("--min-span-length", type=click.IntRange(1), help="Drop shorter spans, in bars.")
@click.option("--merge-gap", type=click.IntRange(0), help="Close gaps up to this many bars.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@reading_options
@artifacts_option
@arm_module_option
@json_option
def command(
    *,
    model_path: str,
    data_path: str | None,
    bars: Path | None,
    instrument: str,
    out: Path,
    decoder: DecoderName | None,
    threshold: float | None,
    min_span_length: int | None,
    merge_gap: int | None,
    device: str,
    artifacts: str | None,
    arm_module: Path | None,
    as_json: bool,
    **reading: Any,
) -> None:
    """Find spans in new windows with a trained model; one row a span, inclusive bounds, with its probability."""
    if (data_path is None) == (bars is None):
        raise click.UsageError("say --data-path for windows, or --bars for raw bars")
    if data_path is not None and Path(data_path).suffix.lower() in TEXT:
        raise click.UsageError(f"--data-path takes windows in Parquet; for raw bars, as text too: --bars {data_path}")
    if bars is None:
        refuse("this is about --bars", instrument=instrument, **reading)
    target = check_output(out, inputs=[data_path, bars], formats=(".parquet", ".csv"))
    load_arm_module(arm_module)
    model = open_model(model_of(model_path, artifacts), device=device)
    if not model.was_evaluated:
        click.echo(
            "note: this model was not evaluated here (no decoding.json): one span a window, temperature 1",
            err=True,
        )
    chosen = model.choice
    if decoder is not None and decoder != chosen.decoder:
        if threshold is None and decoder != "viterbi":
            raise click.UsageError(f"--decoder {decoder} needs its --threshold (`jade optimize-threshold` finds it)")
        chosen = DecoderChoice(decoder, threshold)
    if threshold is not None and chosen.decoder in {"threshold", "marginal"} and not 0 <= threshold <= 1:
        raise click.UsageError(f"--threshold of {chosen.decoder} is a probability from 0 to 1, not {threshold:g}")
    choice = DecoderChoice(
        chosen.decoder,
        chosen.threshold if threshold is None else threshold,
        min_span_length or chosen.min_span_length,
        chosen.merge_gap if merge_gap is None else merge_gap,
    )
    model = replace(model, choice=choice)
    if bars is None:
        numbers = predict_file(model, str(data_path), target)
    else:
        windows, time_NT, notes = newest_windows(bars, model.window_length, instrument, reading_of(reading))
        tell_notes(notes)
        numbers = predict_newest(model, windows, time_NT, target)
    result = {
        "out": str(out),
        **numbers,
        "decoder": choice.decoder,
        "threshold": choice.threshold,
        "temperature": model.temperature,
    }
    how = f"{choice.decoder}, temperature {model.temperature:.3g}"
    text = f"{out}: {numbers['num_spans']} spans in {numbers['num_windows']} windows ({how})"
    tell(result, text, as_json=as_json)
