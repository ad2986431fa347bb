"""The feature sets against a slow loop over single bars, and what must hold of them for any valid bars."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.slow_features import slow_displacement, slow_displacement_and_path, slow_relativity
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jade_model.core.errors import ConfigError
from jade_model.core.features import FEATURE_SET_NAMES, FeatureSet, feature_set, mirror_bars
from jade_model.core.features import sets as features

REPOSITORY = Path(__file__).parents[3]
SHARED = REPOSITORY / ".." / "shared"
BARE_NAMES = ("relativity-12", "displacement-17", "displacement-21")


def random_bars(
    seed: int,
    *,
    num_windows: int = 3,
    num_bars: int = 105,
    price: float = 100.0,
    move: float = 0.01,
    flat_share: float = 0.15,
) -> NDArray[np.float64]:
    """Valid bars with gaps between them, bursts, and whole stretches that are flat.

    Args:
        seed: Seed.
        num_windows: N.
        num_bars: T.
        price: Where the walk starts; it never reaches 0.
        move: Standard deviation of a bar's logarithmic move.
        flat_share: Share of the stretches of 12 bars in which nothing moves.
    """
    rng = np.random.default_rng(seed)
    shape = (num_windows, num_bars)
    is_flat = np.repeat(rng.random((num_windows, num_bars // 12 + 1)) < flat_share, 12, axis=1)[:, :num_bars]
    move_NT = move * np.where(rng.random(shape) < 0.1, 5.0, 1.0) * ~is_flat
    log_close = np.cumsum(move_NT * rng.standard_normal(shape), axis=1)
    log_open = np.pad(log_close, ((0, 0), (1, 0)))[:, :-1] + 0.2 * move_NT * rng.standard_normal(shape)
    high = np.maximum(log_open, log_close) + move_NT * np.abs(rng.standard_normal(shape)) / 2
    low = np.minimum(log_open, log_close) - move_NT * np.abs(rng.standard_normal(shape)) / 2
    return price * np.exp(np.stack([log_open, high, low, log_close], axis=-1))


def flat_bars(num_windows: int = 2, num_bars: int = 40, price: float = 7.0) -> NDArray[np.float64]:
    return np.full((num_windows, num_bars, 4), price)


def slow(name: str, bars_NT4: NDArray[np.float64]) -> NDArray[np.float32]:
    compute = {
        "relativity-12": slow_relativity,
        "displacement-17": slow_displacement,
        "displacement-21": slow_displacement_and_path,
    }[name]
    return np.array([compute(window) for window in bars_NT4.tolist()], np.float32)


@pytest.fixture(params=BARE_NAMES)
def chosen(request: pytest.FixtureRequest) -> FeatureSet:
    return feature_set(request.param)


def test_relativity_equals_the_originals_own_output() -> None:
    golden_path = SHARED / "reference" / "relativity_features_golden.npz"
    if not golden_path.exists():
        pytest.skip("the original's output is not at hand")
    parquet = pytest.importorskip("pyarrow.parquet")
    golden = np.load(golden_path)
    table = parquet.read_table(SHARED / "data" / "expansions_btcusd_m30.parquet", columns=["window_id", "features"])
    rows = {row["window_id"]: row["features"] for row in table.to_pylist()}
    bars_NT4 = np.array([rows[window_id] for window_id in golden["window_id"]])
    ours = feature_set("relativity-12").compute(bars_NT4)
    np.testing.assert_allclose(ours, golden["features"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_bars", [1, 2, 16, 105, 300])
@pytest.mark.parametrize("seed", range(4))
def test_relativity_is_bit_equal_to_the_slow_loop(seed: int, num_bars: int) -> None:
    bars_NT4 = random_bars(seed, num_windows=4, num_bars=num_bars)
    ours = feature_set("relativity-12").compute(bars_NT4)
    np.testing.assert_array_equal(ours, slow("relativity-12", bars_NT4))


@pytest.mark.parametrize("num_bars", [1, 2, 13, 14, 15, 105])
@pytest.mark.parametrize("name", ["displacement-17", "displacement-21"])
@pytest.mark.parametrize("seed", range(2))
def test_displacement_equals_the_slow_loop(seed: int, num_bars: int, name: str) -> None:
    bars_NT4 = random_bars(seed, num_bars=num_bars)
    ours = feature_set(name).compute(bars_NT4)
    np.testing.assert_allclose(ours, slow(name, bars_NT4), rtol=1e-6, atol=1e-6)


prices = st.floats(min_value=1e-8, max_value=1e8)


@settings(max_examples=60)
@given(st.lists(st.lists(prices, min_size=4, max_size=4), min_size=1, max_size=24), st.data())
def test_any_valid_bars_give_finite_features_equal_to_the_slow_loop(
    bars: list[list[float]], data: st.DataObject
) -> None:
    repeats = data.draw(st.integers(1, 12))  # stretches of equal bars
    # A bar's four prices in order: low, open, close, high.
    bars_T4 = np.repeat(np.sort(bars, axis=1)[:, [1, 3, 0, 2]], repeats, axis=0)
    for name in BARE_NAMES:
        ours = feature_set(name).compute(bars_T4[None])
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, slow(name, bars_T4[None]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("price", [1e-8, 1e-3, 1.0, 1e8])
@pytest.mark.parametrize("move", [1e-9, 1e-4, 0.3])
def test_features_are_finite_and_bounded_at_any_price_and_volatility(
    chosen: FeatureSet, price: float, move: float
) -> None:
    bars_NT4 = random_bars(1, price=price, move=move)
    for shown_NT4 in (bars_NT4, mirror_bars(bars_NT4)):
        features_NTF = chosen.compute(shown_NT4)
        assert np.isfinite(features_NTF).all()
        assert np.abs(features_NTF[:, :, chosen.num_path :]).max() <= 20


def test_a_window_that_never_moves_gives_zeros(chosen: FeatureSet) -> None:
    features_NTF = chosen.compute(flat_bars())
    if chosen.num_path:
        assert (features_NTF[:, :, chosen.names.index("volatility")] > 0).all()  # what spans are divided by
        features_NTF[:, :, chosen.names.index("volatility")] = 0
    assert (features_NTF == 0).all()


@pytest.mark.parametrize("num_flat", [1, 13, 14, 30])
def test_the_first_move_after_a_flat_stretch_is_large_but_bounded(num_flat: int) -> None:
    bars_NT4 = flat_bars(1, 60)
    bars_NT4[0, num_flat:, :] += np.arange(1, 61 - num_flat)[:, None] * 0.5
    displacement = feature_set("displacement-17")
    first_move_F = displacement.compute(bars_NT4)[0, num_flat]
    assert 0 < first_move_F[displacement.names.index("return_1")] <= 20
    assert first_move_F[displacement.names.index("efficiency_10")] == 1


@pytest.mark.parametrize("name", ["displacement-17", "displacement-21"])
@pytest.mark.parametrize("power", [-26, -7, 3, 26])
def test_displacement_does_not_depend_on_the_price_scale(power: int, name: str) -> None:
    bars_NT4 = random_bars(2)
    compute = feature_set(name).compute
    np.testing.assert_array_equal(compute(bars_NT4 * 2.0**power), compute(bars_NT4))
    np.testing.assert_allclose(compute(bars_NT4 * 10.0 ** (power / 4)), compute(bars_NT4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("power", [-6, 3, 26])
def test_relativity_does_not_depend_on_the_price_scale_while_ranges_exceed_a_millionth(power: int) -> None:
    bars_NT4 = random_bars(2, flat_share=0.0)
    bars_NT4[..., 1] += 0.01
    compute = feature_set("relativity-12").compute
    np.testing.assert_array_equal(compute(bars_NT4 * 2.0**power), compute(bars_NT4))


def test_mirrored_windows_have_mirrored_displacement() -> None:
    bars_NT4 = random_bars(3)
    displacement = feature_set("displacement-21")
    unsigned = {"range", "travelled", "volatility"}
    sign_F = np.array([1.0 if name in unsigned else -1.0 for name in displacement.names])
    np.testing.assert_array_equal(displacement.compute(mirror_bars(bars_NT4)), displacement.compute(bars_NT4) * sign_F)


def test_mirrored_windows_have_mirrored_bar_shapes() -> None:
    bars_NT4 = random_bars(3)
    relativity = feature_set("relativity-12")
    upright, mirrored = (
        dict(zip(relativity.names, np.moveaxis(relativity.compute(shown_NT4), -1, 0), strict=True))
        for shown_NT4 in (bars_NT4, mirror_bars(bars_NT4))
    )
    np.testing.assert_array_equal(mirrored["body_pct"], -upright["body_pct"])
    np.testing.assert_array_equal(mirrored["upper_wick_pct"], upright["lower_wick_pct"])
    np.testing.assert_array_equal(mirrored["range_z"], upright["range_z"])
    has_range_NT = bars_NT4[..., 1] > bars_NT4[..., 2]
    np.testing.assert_allclose(mirrored["close_norm"][has_range_NT], 1 - upright["close_norm"][has_range_NT], atol=1e-6)


def test_mirroring_keeps_bars_valid_and_undoes_itself() -> None:
    bars_NT4 = random_bars(4)
    mirrored_NT4 = mirror_bars(bars_NT4)
    open_NT, high_NT, low_NT, close_NT = np.moveaxis(mirrored_NT4, -1, 0)
    assert (low_NT <= np.minimum(open_NT, close_NT)).all()
    assert (high_NT >= np.maximum(open_NT, close_NT)).all()
    np.testing.assert_array_equal(mirror_bars(mirrored_NT4), bars_NT4)


@pytest.mark.parametrize("cut", [1, 20, 104])
def test_later_bars_change_nothing_before_them(chosen: FeatureSet, cut: int) -> None:
    bars_NT4 = random_bars(5)
    changed_NT4 = bars_NT4.copy()
    changed_NT4[:, cut:] = random_bars(6, price=50.0)[:, cut:]
    before, after = chosen.compute(bars_NT4), chosen.compute(changed_NT4)
    np.testing.assert_array_equal(before[:, :cut], after[:, :cut])
    assert (before[:, cut:] != after[:, cut:]).any()


def test_a_window_is_computed_alike_alone_and_among_many(chosen: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    bars_NT4 = random_bars(7, num_windows=11)
    together_NTF = chosen.compute(bars_NT4)
    monkeypatch.setattr(features, "BARS_PER_BLOCK", 4 * 105)
    np.testing.assert_array_equal(chosen.compute(bars_NT4), together_NTF)
    np.testing.assert_array_equal(chosen.compute(bars_NT4[4:5])[0], together_NTF[4])


@pytest.mark.parametrize("name", BARE_NAMES)
def test_position_variants_append_the_position_from_0_to_1(name: str) -> None:
    bars_NT4 = random_bars(8)
    bare, positioned = feature_set(name), feature_set(f"{name}+position")
    features_NTF = positioned.compute(bars_NT4)
    assert positioned.names == (*bare.names, "position_encoding")
    np.testing.assert_array_equal(features_NTF[..., :-1], bare.compute(bars_NT4))
    np.testing.assert_allclose(features_NTF[1, :, -1], np.arange(105) / 104, rtol=1e-6)
    assert positioned.compute(bars_NT4[:, :1])[0, 0, -1] == 0


@pytest.mark.parametrize("name", FEATURE_SET_NAMES)
def test_names_match_the_result_in_number_and_are_unique(name: str) -> None:
    chosen = feature_set(name)
    features_NTF = chosen.compute(random_bars(9, num_windows=2, num_bars=16))
    assert chosen.name == name
    assert features_NTF.shape == (2, 16, len(chosen.names))
    assert features_NTF.dtype == np.float32
    assert len(set(chosen.names)) == len(chosen.names)


def test_the_names_say_how_many_features_there_are() -> None:
    for name in BARE_NAMES:
        assert len(feature_set(name).names) == int(name.rsplit("-", 1)[1])


def test_an_unknown_name_is_refused_with_the_choices_and_the_closest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'displacement-17'") as caught:
        feature_set("displacement17")
    assert all(name in str(caught.value) for name in FEATURE_SET_NAMES)


@pytest.mark.parametrize("shape", [(105, 4), (2, 105, 5), (2, 0, 4)])
def test_a_wrong_shape_is_refused_with_the_shape(chosen: FeatureSet, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        chosen.compute(np.ones(shape))


def test_no_windows_give_no_features(chosen: FeatureSet) -> None:
    assert chosen.compute(np.ones((0, 20, 4))).shape == (0, 20, len(chosen.names))


def test_features_need_nothing_but_numpy() -> None:
    code = (
        "import sys, jade_model.core.features\n"
        "assert not {'torch', 'pandas', 'pyarrow', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
