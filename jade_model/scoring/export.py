"""A trained model as one file that needs no Jade: bars in, probabilities out, in ONNX or as a torch program.

The features, every member of an ensemble, both views of a mirrored model and the temperature are in it. What decodes
probabilities into spans stands in the card beside it.

Legend: N windows, T bars, K span scores a bar.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, assert_never, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jade_model.core.checkpoint import current_versions
from jade_model.core.errors import ConfigError
from jade_model.core.files import atomic_path, sha256_file, write_atomically
from jade_model.core.network import JadeCompact
from jade_model.core.segment import SegmentModel
from jade_model.core.span_heads import SpanPosterior
from jade_model.core.span_heads.chain import ChainHead
from jade_model.core.windows import TYPE_NAMES
from jade_model.scoring.predict import predict
from jade_model.scoring.torch_features import mirrored, scan, torch_features
from jade_model.scoring.trained import TrainedModel, choice_json

Format = Literal["onnx", "torch"]
FORMATS: tuple[Format, ...] = get_args(Format)
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
INPUT, OUTPUTS = "bars", ("probability", "type_probability")

TOLERANCE = 1e-5
"""By how much a probability may differ from ours, on NUM_TRIED windows, before an export is thrown away."""
NUM_TRIED = 100

NEEDS = (
    "--format onnx needs optional packages ({missing} is missing): `pip install 'jade-expansions[export]'` "
    "(in a checkout: `.venv/bin/pip install -c constraints.txt -e '.[export]'`); --format torch does without"
)


class ExportedModel(nn.Module):
    """The whole of a trained model as one module of plain torch: bars [N, T, 4] float64 -> what OUTPUTS names.

    Args:
        model: What is exported.

    Raises:
        ConfigError: Its head has no form without a gradient or a loop that torch can export.
    """

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        predictor = model.predictor
        self.features, self.is_mirrored, self.temperature = (
            predictor.features.name,
            predictor.mirrored,
            model.temperature,
        )
        self.members = nn.ModuleList(_exportable(member) for member in predictor.models)

    def forward(self, bars: Tensor) -> tuple[Tensor, Tensor]:
        """Return P(bar in a span), [N, T], and P(type) in the order of TYPE_NAMES, [N, 3], float64."""
        # Both views go through as one batch: an exporter's time goes with the number of operations.
        num_views = 2 if self.is_mirrored else 1
        x_BTF = torch_features(self.features, torch.cat([bars, mirrored(bars)]) if self.is_mirrored else bars)
        spans, types = [], []
        for member in self.members:
            output = member(x_BTF)
            scores_BTK = output.span_scores_BTK.unflatten(0, (num_views, -1)).mean(0).double()
            logits_B3 = output.type_logits_B3.unflatten(0, (num_views, -1)).mean(0)
            spans.append(member.head.posterior(scores_BTK, self.temperature).probability_BT)  # type: ignore[operator, union-attr]
            types.append(torch.softmax(logits_B3, 1).double())
        return torch.stack(spans).mean(0), torch.stack(types).mean(0)


class _PlainChain(ChainHead):
    """The CRF whose marginals are two scans of torch, in the place of numpy's or of a gradient."""

    def marginals(self, emissions: Tensor, mask: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Compute each bar's posterior over tags; as `CRF.marginals`, without masks."""
        assert mask is None  # noqa: S101 - nobody here gives one
        moves_KK = self.transitions.double() / temperature
        emitted_TBK = (emissions.double() / temperature).transpose(0, 1)

        def forwards(state_BK: Tensor, emitted_BK: Tensor) -> tuple[Tensor, Tensor]:
            state_BK = torch.logsumexp(state_BK[:, :, None] + moves_KK, 1) + emitted_BK
            return state_BK, state_BK.clone()

        def backwards(state_BK: Tensor, emitted_BK: Tensor) -> tuple[Tensor, Tensor]:
            state_BK = torch.logsumexp((state_BK + emitted_BK)[:, None] + moves_KK, 2)
            return state_BK, state_BK.clone()

        first_BK = self.start_transitions.double() / temperature + emitted_TBK[0]
        before_TBK = torch.cat([first_BK[None], scan(forwards, first_BK, emitted_TBK[1:])])
        last_BK = (self.end_transitions.double() / temperature).expand_as(first_BK).clone()
        after_TBK = torch.cat([scan(backwards, last_BK, emitted_TBK[1:], reverse=True), last_BK[None]])
        return torch.softmax(before_TBK + after_TBK, 2).transpose(0, 1).to(emissions.dtype)

    def posterior(self, scores_BTK: Tensor, temperature: float = 1.0) -> SpanPosterior:
        """Return the marginals; path and margin are left out."""
        probability_BT = self.marginals(scores_BTK, temperature=temperature)[..., 1]
        return SpanPosterior(probability_BT, probability_BT > 0.5, probability_BT.sum(1))


def _exportable(member: JadeCompact) -> JadeCompact:
    member = copy.deepcopy(member).cpu().eval().requires_grad_(requires_grad=False)
    head: Any = member.head
    if isinstance(head, SegmentModel) and head.several:
        raise ConfigError(
            "this model lets a window hold several spans, and its probabilities are then the gradient of a sum over "
            "all sets of spans: neither format holds a gradient. Models of one span a window can be exported"
        )
    if isinstance(head, ChainHead):
        plain = _PlainChain.of(member.config).requires_grad_(requires_grad=False)
        plain.load_state_dict(head.state_dict())
        member.add_module(member.loss, plain)
    return member


def export_model(model: TrainedModel, out: Path, kind: Format, *, card: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write a model as one file, and its card beside it as `<file's name>.card.json`.

    What was written is read again and run on 100 windows; unless all probabilities are ours to 1e-5, it is refused.

    Args:
        model: From load_model.
        out: The file.
        kind: `onnx`, or `torch` (torch.export).
        card: The card of the run that made the model, if it has one; it goes into ours.

    Returns:
        The card.

    Raises:
        ConfigError: The head has no such form, optional packages are missing, or the file says something else.
    """
    if kind == "onnx":
        _check_packages()
    whole, bars_NT4 = ExportedModel(model).eval(), _random_bars(NUM_TRIED, model.window_length)
    expected = predict(model.predictor, bars_NT4, temperature=model.temperature)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        with torch.no_grad(), _quiet():
            try:
                found = _write(whole, torch.from_numpy(bars_NT4[:3]), temporary, kind)(bars_NT4)
            except ConfigError:
                raise
            except Exception as error:  # the exporters' errors have no common base
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise ConfigError(f"a {model.loss} model cannot be written as {kind}: {reason}") from error
        difference = float(np.abs(found - expected.probability_NT).max())
        if not difference <= TOLERANCE:
            raise ConfigError(
                f"the {kind} file's probabilities differ from ours by up to {difference:.2g}; {TOLERANCE:g} is "
                f"allowed. Nothing was written (torch {torch.__version__})"
            )
    told = _card(model, out, kind, difference, card)
    write_atomically(card_path(out), json.dumps(told, indent=2) + "\n")
    return told


def card_path(out: Path) -> Path:
    """Return where the card of an exported model lies."""
    return out.with_name(f"{out.name}.card.json")


def _write(whole: ExportedModel, bars: Tensor, path: Path, kind: Format) -> Any:
    """Write the file; return what runs it: bars -> probabilities."""
    shapes = ({0: torch.export.Dim("windows", min=1)},)
    match kind:
        case "torch":
            torch.export.save(torch.export.export(whole, (bars,), dynamic_shapes=shapes), path)
            program: Any = torch.export.load(path).module()
            return lambda given: program(torch.from_numpy(given))[0].numpy()
        case "onnx":
            import onnxruntime

            written = torch.onnx.export(
                whole,
                (bars,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                verbose=False,
            )
            assert written is not None  # noqa: S101 - it is, without a path
            written.save(path, external_data=False)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(path.read_bytes(), options)
            return lambda given: session.run([OUTPUTS[0]], {INPUT: given})[0]
        case _:
            assert_never(kind)


def _check_packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise ConfigError(NEEDS.format(missing=name)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' notes for developers from people."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _card(model: TrainedModel, out: Path, kind: Format, difference: float, run_card: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "format": kind,
        "file": {"name": out.name, "sha256": sha256_file(out)},
        "input": {
            "name": INPUT,
            "kind": "float64",
            "shape": ["windows", model.window_length, 4],
            "is": "open, high, low, close; oldest bar first",
        },
        "outputs": {
            OUTPUTS[0]: {"shape": ["windows", model.window_length], "is": "P(bar in a span) at the temperature below"},
            OUTPUTS[1]: {"shape": ["windows", len(TYPE_NAMES)], "is": f"P of {', '.join(TYPE_NAMES)}"},
        },
        "loss": model.loss,
        "features": model.predictor.features.name,
        "temperature": model.temperature,
        "decoding": choice_json(model.choice) | {"was_evaluated": model.was_evaluated},
        "members": [{"file": path.name, "sha256": sha256_file(path)} for path in model.checkpoints],
        "largest_difference": difference,
        "windows_tried": NUM_TRIED,
        "versions": current_versions(),
        "model_card": run_card,
    }


def _random_bars(num_windows: int, num_bars: int) -> NDArray[np.float64]:
    """Return random walks with now and then a leg, a gap or a flat stretch, float64 [N, T, 4]."""
    rng = np.random.default_rng(0)
    step_NT = rng.standard_t(4, (num_windows, num_bars)) * 10 ** rng.uniform(-1, 1, (num_windows, 1))
    start_N = rng.integers(0, num_bars // 2, num_windows)
    in_leg_NT = np.abs(np.arange(num_bars) - start_N[:, None] - 5) < 5
    step_NT += 3 * in_leg_NT * step_NT.std(1, keepdims=True)
    step_NT[::10, : num_bars // 3] = 0
    close_NT = 1000 + step_NT.cumsum(1)
    open_NT = np.concatenate([np.full((num_windows, 1), 1000.0), close_NT[:, :-1]], axis=1)
    wick_NT2 = np.abs(rng.normal(0, 0.3, (num_windows, num_bars, 2))) * (step_NT != 0)[..., None]
    high_NT, low_NT = np.maximum(open_NT, close_NT) + wick_NT2[..., 0], np.minimum(open_NT, close_NT) - wick_NT2[..., 1]
    return np.stack([open_NT, high_NT, low_NT, close_NT], axis=2)
