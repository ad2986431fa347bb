"""A span loss of one's own: a head, a line in the registry, and everything else takes it as it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jade_model.core.checkpoint import load_checkpoint, model_of, save_checkpoint
from jade_model.core.config import SPAN_HEADS, SpanHeadEntry
from jade_model.core.recipes import recipe, recipe_names
from jade_model.core.span_heads import SpanHead, SpanPosterior, head_class
from jade_model.core.train import prepare, train
from jade_model.core.windows import Windows
from jade_model.data.splits import group_windows
from jade_model.scoring.decoding import DecoderChoice, decode, decoders_of
from jade_model.scoring.metrics import count, truth_of
from jade_model.scoring.predict import predict, predictor_of
from jade_model.statistics.compare import compare_arms
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows


class HingeHead(SpanHead):
    """Independent bars with a hinge instead of a cross-entropy, and a learned sharpness."""

    scores_per_bar = 1

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.tensor(1.0))

    @classmethod
    def of(cls, config: Any) -> HingeHead:
        return cls()

    def loss(self, scores_BTK: Tensor, labels: Any, config: Any) -> Tensor:
        sign_BT = 2.0 * labels.in_span_BT - 1
        return functional.softplus(1 - sign_BT * scores_BTK[..., 0] * self.sharpness).mean(1)

    def in_span(self, scores_BTK: Tensor) -> Tensor:
        return torch.sigmoid(scores_BTK[..., 0] * self.sharpness)

    def posterior(self, scores_BTK: Tensor, temperature: float = 1.0) -> SpanPosterior:
        logits_BT = scores_BTK[..., 0] * self.sharpness.detach() / temperature
        return SpanPosterior(torch.sigmoid(logits_BT), logits_BT > 0, logits_BT.clamp_min(0).sum(1))


@pytest.fixture
def hinge(monkeypatch: pytest.MonkeyPatch) -> str:
    entry = SpanHeadEntry(f"{__name__}:HingeHead", decoders=("threshold", "viterbi", "one_span"))
    monkeypatch.setitem(SPAN_HEADS, "hinge", entry)
    return "hinge"


def test_a_further_arm_is_a_head_and_a_line_in_the_registry(hinge: str, small_windows: Windows, tmp_path: Any) -> None:
    assert {f"seed_{hinge}", f"jade_{hinge}"} <= set(recipe_names())
    rows = np.arange(small_windows.num_windows)
    fitted, scored = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    truth = truth_of(small_windows).take(scored)
    counts = []
    for loss in (hinge, "soft_span"):
        chosen = recipe(f"jade_{loss}")
        chosen = dataclasses.replace(chosen, training=dataclasses.replace(chosen.training, epochs=3))
        checkpoint = train(chosen, prepare(small_windows, chosen), train_rows=fitted, validation_rows=scored, seed=0)
        save_checkpoint(checkpoint, tmp_path / f"{loss}.pt")
        read = load_checkpoint(tmp_path / f"{loss}.pt")
        assert f"{hinge}.sharpness" in read.weights or loss != hinge
        models = [model_of(read), model_of(read)]
        one, two = (predict(predictor_of(members, chosen), small_windows) for members in (models[:1], models))
        np.testing.assert_allclose(one.probability_NT, two.probability_NT, atol=1e-12)
        assert decoders_of(loss) == SPAN_HEADS[loss].decoders
        marked_NT = decode(one.take(scored), DecoderChoice("one_span", 0.1))
        found = count(marked_NT, truth)
        counts.append(ArmCounts(loss, found.bars_N3[None], found.spans_NJ3[None, :, 0]))
    groups = group_windows(small_windows).group_N[scored]
    compared = compare_arms(counts, ScoredWindows(groups, np.zeros((1, len(scored)), dtype=np.int64)))
    assert {item.arm for item in compared.scores} == {hinge, "soft_span"}


def test_what_is_no_head_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPAN_HEADS, "wrong", SpanHeadEntry("torch.nn:Linear"))
    with pytest.raises(TypeError, match=r"torch\.nn:Linear is not a subclass of SpanHead"):
        head_class("wrong")
