from __future__ import annotations

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.training_windows import random_windows, rows, shortened

from jade_model.core.checkpoint import save_checkpoint
from jade_model.core.config import LOSSES
from jade_model.core.errors import CheckpointError, ConfigError
from jade_model.core.features import mirror_bars
from jade_model.core.recipes import recipe
from jade_model.core.targets import build_targets
from jade_model.core.train import prepare, train
from jade_model.scoring.predict import (
    Predictor,
    load_predictor,
    posterior,
    posterior_countdown,
    posterior_pointers,
    predict,
    run_network,
    untrained_predictor,
)


def fresh(loss, *, seed=0):
    return untrained_predictor(shortened(recipe(f"jade_{loss}")), seed=seed)


def ensemble(loss, count=3):
    members = [fresh(loss, seed=seed) for seed in range(count)]
    return dataclasses.replace(members[0], models=tuple(member.models[0] for member in members))


def assert_equal(first, second, **tolerance):
    for item in dataclasses.fields(first):
        ours, theirs = getattr(first, item.name), getattr(second, item.name)
        if isinstance(ours, np.ndarray):
            np.testing.assert_allclose(
                ours.astype(float), theirs.astype(float), **(tolerance or {"rtol": 0, "atol": 0})
            )
        else:
            assert ours == theirs


def test_models_that_are_made_side_by_side_start_from_their_own_seeds():
    def weights(seed):
        return fresh("crf", seed=seed).models[0].pooled.weight.detach()

    seeds = list(range(8)) * 12
    alone = {seed: weights(seed) for seed in set(seeds)}
    with ThreadPoolExecutor(8) as pool:
        assert all(made.equal(alone[seed]) for seed, made in zip(seeds, pool.map(weights, seeds), strict=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_predictions_have_their_shapes_and_are_probabilities(loss):
    windows = random_windows(5, 30)
    predictions = predict(fresh(loss), windows)
    assert predictions.loss == loss
    assert predictions.probability_NT.shape == predictions.path_NT.shape == (5, 30)
    assert predictions.countdown_NT.shape == predictions.posterior_countdown_NT.shape == (5, 30)
    assert predictions.pointers_N2.shape == predictions.posterior_pointers_N2.shape == (5, 2)
    assert ((predictions.probability_NT >= 0) & (predictions.probability_NT <= 1)).all()
    np.testing.assert_allclose(predictions.type_probability_N3.sum(1), 1, atol=1e-6)
    assert (predictions.margin_N[~predictions.path_NT.any(1)] == 0).all()
    assert (predictions.margin_N >= 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_predictions_do_not_depend_on_the_batch_size(loss):
    windows = random_windows(7)
    tolerance = {"rtol": 0, "atol": 1e-5}
    assert_equal(
        predict(fresh(loss), windows, batch_size=3), predict(fresh(loss), windows, batch_size=100), **tolerance
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_no_windows_give_empty_arrays(loss):
    predictions = predict(fresh(loss), np.zeros((0, 20, 4)))
    assert predictions.probability_NT.shape == (0, 20)
    assert predictions.posterior_pointers_N2.shape == (0, 2)


@pytest.mark.parametrize("loss", LOSSES)
def test_heat_flattens_probabilities_and_several_temperatures_cost_one_run(loss):
    windows = random_windows(4)
    output = run_network(fresh(loss), windows)
    cold, unit, hot = (posterior(output, temperature) for temperature in (0.01, 1.0, 1e6))
    assert_equal(unit, predict(fresh(loss), windows))
    spread = [np.ptp(item.probability_NT, axis=1).mean() for item in (cold, unit, hot)]
    assert spread[1] > spread[2]
    if loss != "single_span":
        np.testing.assert_allclose(hot.probability_NT, 0.5, atol=1e-4)
    # Almost frozen, the posterior is the best path.
    assert ((cold.probability_NT > 0.5) == cold.path_NT).mean() > 0.9


def test_soft_span_probabilities_are_the_sigmoid_of_scores_over_temperature():
    predictor, windows = dataclasses.replace(fresh("soft_span"), mirrored=False), random_windows(3)
    x = torch.from_numpy(predictor.features.compute(windows.bars_NT4))
    scores = predictor.models[0](x).span_scores_BTK[..., 0].detach().double().numpy()
    predictions = predict(predictor, windows, temperature=2.5)
    np.testing.assert_allclose(predictions.probability_NT, 1 / (1 + np.exp(-scores / 2.5)), atol=1e-12)


def test_crf_posterior_and_path_equal_enumeration_at_any_temperature():
    predictor, windows = dataclasses.replace(fresh("crf"), mirrored=False), random_windows(2, 16).bars_NT4[:, :8]
    model, temperature = predictor.models[0], 1.7
    with torch.no_grad():
        emissions = model(torch.from_numpy(predictor.features.compute(windows))).span_scores_BTK.double().numpy()
        for parameter in model.crf.parameters():
            parameter.mul_(20)
    start, end, moves = (
        getattr(model.crf, name).detach().double().numpy()
        for name in ("start_transitions", "end_transitions", "transitions")
    )
    predictions = predict(predictor, windows, temperature=temperature)
    for row in range(2):
        paths = list(itertools.product((0, 1), repeat=8))
        ends = [start[path[0]] + end[path[-1]] for path in paths]
        inside = [emissions[row, range(8), path].sum() for path in paths]
        between = [sum(moves[pair] for pair in itertools.pairwise(path)) for path in paths]
        scores = (np.array(ends) + inside + between) / temperature
        weights = np.exp(scores - scores.max())
        np.testing.assert_allclose(
            predictions.probability_NT[row], weights @ np.array(paths) / weights.sum(), atol=1e-6
        )
        assert predictions.path_NT[row].tolist() == [bool(tag) for tag in paths[int(scores.argmax())]]
        assert predictions.margin_N[row] == pytest.approx(scores.max() - scores[0], abs=1e-5)


def test_an_ensemble_averages_its_members_probabilities():
    windows = random_windows(4)
    for loss in LOSSES:
        together = ensemble(loss)
        members = [
            predict(dataclasses.replace(together, models=(model,)), windows, temperature=1.3)
            for model in together.models
        ]
        averaged = predict(together, windows, temperature=1.3)
        for name in ("probability_NT", "type_probability_N3", "pointers_N2", "countdown_NT"):
            np.testing.assert_allclose(
                getattr(averaged, name), np.mean([getattr(member, name) for member in members], axis=0), atol=1e-12
            )


@pytest.mark.parametrize("loss", LOSSES)
def test_an_ensemble_of_equals_says_what_each_says(loss):
    one = fresh(loss)
    windows = random_windows(3)
    tripled = dataclasses.replace(one, models=one.models * 3)
    assert_equal(predict(tripled, windows), predict(one, windows), rtol=0, atol=1e-9)


def test_an_ensemble_of_different_losses_is_refused():
    crf, soft = fresh("crf"), fresh("soft_span")
    with pytest.raises(ConfigError, match="share one loss"):
        Predictor(crf.models + soft.models, crf.features)


@pytest.mark.parametrize(
    ("options", "message"), [({"temperature": 0.0}, "positive"), ({"batch_size": 0}, "at least 1")]
)
def test_senseless_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        predict(fresh("crf"), random_windows(2), **options)


def test_a_trained_checkpoint_predicts_better_than_the_untrained_model(tmp_path):
    windows = random_windows(60)
    short = shortened(recipe("jade_single_span"), epochs=15, hidden_size=16)
    checkpoint = train(short, prepare(windows, short), train_rows=rows(0, 40), validation_rows=rows(0, 0), seed=0)
    save_checkpoint(checkpoint, tmp_path / "a.pt")
    held_out, truth = windows.take(rows(40, 60)), windows.in_span_NT()[40:]
    predictions = predict(load_predictor(tmp_path / "a.pt"), held_out)
    untrained = predict(untrained_predictor(short, seed=0), held_out)
    separation = [
        item.probability_NT[truth].mean() - item.probability_NT[~truth].mean() for item in (predictions, untrained)
    ]
    assert separation[0] > 0.5
    assert separation[1] < 0.1


def test_members_of_different_kinds_are_refused(tmp_path):
    for name in ("jade_crf", "seed_crf"):
        short = shortened(recipe(name), epochs=1)
        data = prepare(random_windows(8), short)
        checkpoint = train(short, data, train_rows=rows(0, 8), validation_rows=rows(0, 0), seed=0)
        save_checkpoint(checkpoint, tmp_path / f"{name}.pt")
    paths = [tmp_path / "jade_crf.pt", tmp_path / "seed_crf.pt"]
    with pytest.raises(CheckpointError, match="share loss and feature set"):
        load_predictor(paths)
    assert len(load_predictor([paths[0], paths[0]]).models) == 2


def test_pointers_and_countdown_of_a_sure_posterior_are_the_targets():
    windows = random_windows(6, 30)
    targets = build_targets(windows)
    pointers = posterior_pointers(torch.from_numpy(windows.in_span_NT().astype(float)))
    np.testing.assert_allclose(pointers.numpy(), targets.pointers_N2, atol=1e-6)
    np.testing.assert_allclose(posterior_countdown(pointers, 30).numpy(), targets.countdown_NT, atol=1e-5)


def test_pointers_of_an_all_zero_posterior_are_finite():
    assert torch.isfinite(posterior_pointers(torch.zeros(2, 16, dtype=torch.float64))).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_model_of_both_views_says_the_same_of_a_window_and_its_mirror_image(loss):
    windows = random_windows(5)
    both = fresh(loss)
    assert both.mirrored
    upside_down = mirror_bars(windows.bars_NT4)
    assert_equal(predict(both, windows), predict(both, upside_down), rtol=0, atol=1e-6)
    alone = dataclasses.replace(both, mirrored=False)
    assert np.abs(predict(alone, windows).probability_NT - predict(alone, upside_down).probability_NT).max() > 1e-6


def test_the_seeds_recipe_reads_one_view():
    assert not untrained_predictor(recipe("seed_crf"), seed=0).mirrored
