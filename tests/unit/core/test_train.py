from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.training_windows import random_windows, rows, shortened

from jade_model.core.checkpoint import build_model, model_of
from jade_model.core.config import LOSSES, TASKS, TrainingConfig
from jade_model.core.errors import CheckpointError, ConfigError, DataError, TrainingDiverged
from jade_model.core.losses import task_losses, uncertainty_weighted
from jade_model.core.recipes import recipe, recipe_names
from jade_model.core.targets import fitted_recipe
from jade_model.core.train import (
    evaluate,
    learning_rate_at,
    prepare,
    torch_seed,
    train,
    usable_device,
)


def tweaked(name, *, epochs=3, **changes):
    short = shortened(recipe(name), epochs=epochs)
    return dataclasses.replace(short, training=dataclasses.replace(short.training, **changes))


def run(chosen, windows=None, **options):
    data = prepare(windows or random_windows(20), chosen)
    arguments = {"train_rows": rows(0, 14), "validation_rows": rows(14, 20), "seed": 1, **options}
    return train(chosen, data, **arguments)


def assert_same(first, second):
    torch.testing.assert_close(first.weights, second.weights, rtol=0, atol=0)
    torch.testing.assert_close(first.training_state, second.training_state, rtol=0, atol=0)
    strip = [[{k: v for k, v in record.items() if k != "seconds"} for record in c.history] for c in (first, second)]
    assert strip[0] == strip[1]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_trains_and_its_loss_falls(name):
    short = tweaked(name, epochs=6, learning_rate=1e-2)
    history = run(short).history
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert all(np.isfinite(record["validation_loss"]) for record in history)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("cut", [1, 2])
def test_resuming_gives_the_same_numbers_as_no_interruption_bit_for_bit(loss, cut):
    short = tweaked(f"jade_{loss}")
    snapshots = []
    whole = run(short, on_epoch=lambda _, snapshot: snapshots.append(snapshot()))
    assert_same(run(short, resume=snapshots[cut - 1]), whole)


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    short = tweaked("jade_crf")
    assert_same(run(short), run(short))
    weights = run(short).weights["lstm.weight_hh_l0"], run(short, seed=2).weights["lstm.weight_hh_l0"]
    assert not torch.equal(*weights)


def test_history_tells_of_every_task_and_validation_loss_is_the_plain_sum():
    record = run(tweaked("seed_crf")).history[-1]
    assert set(record["train_losses"]) == set(record["sigma"]) == set(record["task_weight"]) == set(TASKS)
    assert record["validation_loss"] == pytest.approx(sum(record["validation_losses"].values()))
    assert record["learning_rate"] == 1e-3
    assert record["gradient_norm"] > 0
    assert record["seconds"] > 0


def test_without_validation_windows_there_is_no_validation_loss():
    record = run(tweaked("seed_soft_span"), validation_rows=rows(0, 0)).history[-1]
    assert record["validation_loss"] is None
    assert record["validation_losses"] is None
    assert record["validation_f1"] is None


def test_validation_windows_do_not_influence_training():
    short = tweaked("jade_single_span")
    with_them, without = run(short), run(short, validation_rows=rows(0, 0))
    torch.testing.assert_close(with_them.weights, without.weights, rtol=0, atol=0)


def test_validation_losses_are_those_of_the_weights_that_are_scored():
    short = tweaked("jade_soft_span")
    checkpoint = run(short)
    data = prepare(random_windows(20), short)
    losses = evaluate(model_of(checkpoint), data.x_VNTF[0], data.labels, torch.arange(14, 20), short.training).losses_4
    assert list(checkpoint.history[-1]["validation_losses"].values()) == pytest.approx(losses.tolist(), rel=1e-5)


@pytest.mark.parametrize("name", ["jade_soft_span", "jade_crf", "jade_single_span"])
def test_validation_f1_is_that_of_the_labelling_that_the_posterior_calls_best(name):
    short = tweaked(name)
    checkpoint = run(short)
    data, model, watched = prepare(random_windows(20), short), model_of(checkpoint), torch.arange(14, 20)
    with torch.no_grad():
        path_NT = model.head.posterior(model(data.x_VNTF[0][watched]).span_scores_BTK).path_BT
    labelled_NT = data.labels.in_span_BT[watched] == 1
    expected = 2 * (path_NT & labelled_NT).sum() / (path_NT.sum() + labelled_NT.sum())
    assert checkpoint.history[-1]["validation_f1"] == pytest.approx(float(expected))


def test_evaluation_does_not_depend_on_how_windows_are_batched(monkeypatch):
    short = tweaked("seed_crf")
    data, model = prepare(random_windows(10), short), model_of(run(short))
    whole = evaluate(model, data.x_VNTF[0], data.labels, torch.arange(10), short.training)
    monkeypatch.setattr("jade_model.core.validation.EVALUATION_BATCH", 4)
    torch.testing.assert_close(evaluate(model, data.x_VNTF[0], data.labels, torch.arange(10), short.training), whole)


def test_without_dropout_sixty_steps_equal_plain_pytorch():
    chosen = tweaked("seed_soft_span", epochs=12, batch_size=4)
    chosen = dataclasses.replace(chosen, model=dataclasses.replace(chosen.model, input_dropout=0.0, head_dropout=0.0))
    data = prepare(random_windows(20), chosen)
    ours = train(chosen, data, train_rows=rows(0, 20), validation_rows=rows(0, 0), seed=4)

    model = build_model(chosen, seed=torch_seed(4, 0)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(torch_seed(4, 0))
    for _ in range(12):
        for batch in torch.randperm(20, generator=generator).split(4):
            labels = data.labels.take(batch)
            losses = task_losses(model, model(data.x_VNTF[0][batch]), labels, chosen.training)
            optimizer.zero_grad()
            uncertainty_weighted(losses, model.log_sigma).backward()
            optimizer.step()
    torch.testing.assert_close(ours.weights, dict(model.state_dict()), rtol=0, atol=1e-4)


def test_mirroring_shows_each_window_upside_down_about_half_of_the_time():
    chosen = tweaked("jade_soft_span")
    data = prepare(random_windows(4), chosen)
    assert data.x_VNTF.shape[0] == 2
    assert not torch.equal(data.x_VNTF[0], data.x_VNTF[1])
    assert prepare(random_windows(4), tweaked("seed_soft_span")).x_VNTF.shape[0] == 1


def test_a_diverging_loss_stops_the_run_with_its_step_and_values():
    with pytest.raises(TrainingDiverged) as raised:
        run(tweaked("seed_crf", learning_rate=1e30), validation_rows=rows(0, 0))
    assert raised.value.epoch == 1
    assert raised.value.step == 1
    assert not np.isfinite(raised.value.values["total"])


def test_gradient_clipping_bounds_the_step_not_the_norm_that_is_told():
    clipped, free = (run(tweaked("seed_crf", epochs=1, gradient_clip=clip)) for clip in (1e-3, None))
    assert clipped.history[0]["gradient_norm"] > 1e-3
    assert not torch.equal(clipped.weights["lstm.weight_hh_l0"], free.weights["lstm.weight_hh_l0"])


@pytest.mark.parametrize(("loss", "own"), [("crf", "crf.transitions"), ("single_span", "single_span.length_bias_L")])
def test_the_span_losss_own_parameters_learn_faster_by_their_factor_and_no_others(loss, own):
    changes = {"epochs": 1, "batch_size": 20, "schedule": "constant", "weight_decay": 0.0}
    at_1, at_8 = (run(tweaked(f"jade_{loss}", span_layer_rate=rate, **changes)).weights for rate in (1.0, 8.0))
    first = build_model(tweaked(f"jade_{loss}"), seed=torch_seed(1, 0)).state_dict()
    torch.testing.assert_close(at_8[own] - first[own], 8 * (at_1[own] - first[own]), rtol=1e-3, atol=1e-6)
    others = [name for name in at_1 if not name.startswith(f"{loss}.")]
    assert all(torch.equal(at_1[name], at_8[name]) for name in others)


def test_normalised_losses_start_at_one_each():
    chosen = tweaked("jade_soft_span", epochs=1)
    data = prepare(random_windows(20), chosen)
    checkpoint = train(chosen, data, train_rows=rows(0, 20), validation_rows=rows(0, 0), seed=0)
    scale = checkpoint.training_state["loss_scale"]
    fresh = build_model(chosen, seed=torch_seed(0, 0))
    torch.testing.assert_close(
        scale, evaluate(fresh.train(), data.x_VNTF[0], data.labels, torch.arange(20), chosen.training).losses_4
    )


def test_one_cycle_rises_from_a_25th_to_the_peak_and_falls_to_almost_nothing():
    config = TrainingConfig(learning_rate=1.0, schedule="one_cycle")
    rates = [learning_rate_at(step, 100, config) for step in range(100)]
    peak = int(np.argmax(rates))
    assert rates[0] == pytest.approx(1 / 25)
    assert peak == 29
    assert rates[peak] == pytest.approx(1)
    assert rates[-1] == pytest.approx(1 / 25e4)
    assert all(np.diff(rates[: peak + 1]) > 0)
    assert all(np.diff(rates[peak:]) < 0)


def test_one_cycle_equals_torchs():
    config = TrainingConfig(learning_rate=0.3, schedule="one_cycle")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=60, cycle_momentum=False)
    for step in range(60):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(learning_rate_at(step, 60, config), rel=1e-9)
        optimizer.step()
        if step < 59:
            theirs.step()


@pytest.mark.parametrize("spans", [[[]] * 6, [[(2, 5), (9, 14)], [], [(0, 24)], [(23, 24)], [], [(1, 3)]]])
@pytest.mark.parametrize("loss", LOSSES)
def test_windows_without_a_span_with_several_and_with_long_ones_train(loss, spans):
    windows = random_windows(6, spans_of=spans)
    short = dataclasses.replace(shortened(recipe(f"jade_{loss}"), epochs=2))
    short = dataclasses.replace(short, model=dataclasses.replace(short.model, max_span_length=4))
    fitted = fitted_recipe(short, windows)
    checkpoint = run(fitted, windows, train_rows=rows(0, 6), validation_rows=rows(0, 3))
    assert all(torch.isfinite(value).all() for value in checkpoint.weights.values())


def test_a_single_span_recipe_that_can_not_express_the_labels_is_refused_before_training():
    windows = random_windows(2, spans_of=[[(2, 9), (10, 12)], []])
    short = shortened(recipe("jade_single_span"))
    with pytest.raises(ConfigError, match="several in a window"):
        prepare(windows, short)


def test_flat_windows_train():
    windows = random_windows(8)
    windows.bars_NT4[:] = 100.0
    checkpoint = run(tweaked("jade_single_span"), windows, train_rows=rows(0, 6), validation_rows=rows(6, 8))
    assert np.isfinite(checkpoint.history[-1]["validation_loss"])


def test_no_training_windows_is_an_error():
    with pytest.raises(DataError, match="no training windows"):
        run(tweaked("seed_crf"), train_rows=rows(0, 0))


def test_resuming_another_training_is_refused():
    short = tweaked("seed_crf")
    done = run(short, run_key="a")
    for options in ({"seed": 9, "run_key": "a"}, {"run_key": "b"}):
        with pytest.raises(CheckpointError, match="not the same training"):
            run(short, resume=done, **options)
    with pytest.raises(CheckpointError, match="weights only"):
        run(short, resume=dataclasses.replace(done, training_state=None), run_key="a")


def test_a_device_that_is_not_there_is_never_replaced():
    with pytest.raises(ConfigError, match="CUDA devices"):
        usable_device(f"cuda:{torch.cuda.device_count()}")
    with pytest.raises(ConfigError, match="not supported"):
        usable_device("meta")
    with pytest.raises(ConfigError, match="no device"):
        usable_device("gpu")
