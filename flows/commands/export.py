"""`jade export`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.commands.common import arm_module_option, artifacts_option, json_option, load_arm_module, tell
from flows.commands.reading import check_output

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}


@click.command("export")
@click.option(
    "--model-path",
    required=True,
    metavar="MODEL",
    help="A checkpoint, or a training's folder: a path, RUN/ARM among the artifacts, s3://bucket/prefix/RUN/ARM, "
    "or `champion`.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(ENDINGS)),
    default="onnx",
    show_default=True,
    help="ONNX (needs the extra `export`), or a program of torch.export.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Ends in .onnx or .pt2.  [default: model.onnx or model.pt2]"
)
@artifacts_option
@arm_module_option
@json_option
def command(
    *, model_path: str, kind: str, out: Path | None, artifacts: str | None, arm_module: Path | None, as_json: bool
) -> None:
    """Write a trained model, its features included, as one file that runs without Jade; its card lies beside it.

    The file takes bars and gives each bar's probability. It is run on 100 windows before it is kept, and says what Jade
    says to 1e-5. It takes a minute or two: exporters write the network out bar by bar.
    """
    ending = ENDINGS[kind]
    target = check_output(Path(f"model{ending}") if out is None else out, inputs=[], formats=(ending,))
    from jade_model.scoring.export import FORMATS, card_path, export_model
    from jade_model.scoring.trained import open_model
    from tasks.experiments.model_card import card_of
    from tasks.experiments.promote import model_of

    load_arm_module(arm_module)
    path = model_of(model_path, artifacts)
    (chosen,) = (item for item in FORMATS if item == kind)
    card = export_model(open_model(path), target, chosen, card=card_of(path))
    text = (
        f"{target}: {card['loss']}, bars of {card['input']['shape'][1]} a window; card: {card_path(target)}\n"
        f"largest difference in {card['windows_tried']} windows: {card['largest_difference']:.1g}"
    )
    tell({"out": str(target), "card": str(card_path(target)), **card}, text, as_json=as_json)
