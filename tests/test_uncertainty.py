"""Uncertainty: intervals that cover what they claim when the errors are known, distances by hand, and what an ensemble refuses."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridecosys import HybridEnsemble, HybridModel, wroasted
from hybridecosys.data.features import FeatureEncoder
from hybridecosys.data.weather import synthetic_weather
from hybridecosys.evaluation import uncertainty as hu
from hybridecosys.evaluation.over_sites import score_by_distance


def run_and_cube(spread, base, slope, members=6, n_sites=20, days=1000, seed=0):
    """A mean with the spread of its members, and GPP that differs from it by a normal error of (base + slope |mean|) and a new member."""
    rng = np.random.default_rng(seed)
    coords = {"site": [f"S{i:02d}" for i in range(n_sites)], "time": pd.date_range("2001-01-01", periods=days)}
    centre = rng.uniform(1, 10, (n_sites, days))
    values = centre + rng.normal(0, spread, (members, n_sites, days))
    mean, s = values.mean(0), values.std(0, ddof=1)
    run = xr.Dataset({"gpp": (("site", "time"), mean), "gpp_spread": (("site", "time"), s)}, coords, attrs={"members": members})
    seen = centre + rng.normal(0, 1, centre.shape) * np.sqrt(spread**2 + (base + slope * centre) ** 2)
    cube = xr.Dataset({"GPP_NT_VUT_REF": (("site", "time"), np.where(rng.random(seen.shape) < 0.2, np.nan, seen), {"units": "gC m-2 d-1"})}, coords)
    return run, cube


def covered(table):
    return table.groupby(["interval", "level"]).coverage.mean()


def test_members_alone_cover_a_further_member():
    result = covered(hu.coverage(*run_and_cube(spread=0.7, base=0.0, slope=0.0)))
    np.testing.assert_allclose(result["ensemble"], [0.5, 0.9], atol=0.01)


def test_residuals_of_other_sites_make_the_interval_honest():
    run, cube = run_and_cube(spread=0.2, base=0.5, slope=0.3)
    there, here = slice(0, 10), slice(10, 20)
    residuals = hu.fit_residuals(run.isel(site=there), cube.isel(site=there))
    expected = np.sqrt(2 / np.pi) * np.array([0.5, 0.3])  # mean absolute error of a normal one
    np.testing.assert_allclose(residuals.loc["gpp", ["base", "slope"]].astype(float), expected, rtol=0.15)
    result = covered(hu.coverage(run.isel(site=here), cube.isel(site=here), residuals))
    np.testing.assert_allclose(result["ensemble and residuals"], [0.5, 0.9], atol=0.02)
    assert (result["ensemble"] < [0.2, 0.4]).all()


def test_sites_weigh_the_same_whatever_their_length():
    run, cube = run_and_cube(spread=0.1, base=1.0, slope=0.0, n_sites=2)
    cube["GPP_NT_VUT_REF"] = (run.gpp + xr.DataArray([4.0, -1.0], dims="site")).where((run.site == "S00") | (run.time.dt.year == 2001)).assign_attrs(units="gC m-2 d-1")
    half = hu.fit_residuals(run, cube, levels=[0.98]).loc["gpp"]
    assert half[0.01] < 0 < half[0.99]  # a fifth of the days at S01, and yet half the weight
    middle = hu.fit_residuals(run, cube, levels=[0.02]).loc["gpp"]
    assert middle[0.49] < 0 < middle[0.51]


def test_coverage_counts_observed_days_only():
    run, cube = run_and_cube(spread=0.5, base=0.1, slope=0.0, n_sites=3)
    table = hu.coverage(run, cube, levels=[0.9]).set_index("site")
    assert table.n.tolist() == cube["GPP_NT_VUT_REF"].notnull().sum("time").values.tolist()
    spread = hu.flux_spread(run, cube).set_index("site")
    error = (run.gpp - cube["GPP_NT_VUT_REF"]).sel(site="S01")
    assert spread.rmse["S01"] == pytest.approx(float(np.sqrt((error**2).mean()))) and spread.unit["S01"] == "gC m-2 d-1"


def test_spread_of_parameters_is_a_share_of_the_range():
    values = xr.Dataset({"a.b": (("member", "site"), [[1.0, 5.0], [3.0, 7.0]], {"lower": 0.0, "upper": 10.0})})
    row = hu.parameter_spread(values).loc["a.b"]
    assert row.between_members == pytest.approx(np.sqrt(2) / 10) and row.between_sites == pytest.approx(4 / np.sqrt(2) / 10)


def test_distance_by_hand():
    cube = synthetic_weather(n_sites=8, years=1, seed=1)
    train = cube.isel(site=slice(0, 5))
    hybrid = SimpleNamespace(encoder=FeatureEncoder(["soil"]).fit(train))
    table = hu.feature_distance(hybrid, train, cube).set_index("site")
    x = hybrid.encoder.transform(cube).values
    pairs = [np.linalg.norm(x[i] - x[j]) for i in range(5) for j in range(i)]
    away = [np.linalg.norm(x[6] - x[i]) for i in range(5)]
    assert table.distance.iloc[6] == pytest.approx(min(away) / np.mean(pairs)) and table.nearest.iloc[6] == str(cube.site.values[np.argmin(away)])
    assert (table.distance[:5] > 0).all() and (table.nearest[:5] != table.index[:5]).all()
    with pytest.raises(ValueError, match="without features"):
        hu.feature_distance(SimpleNamespace(encoder=None), train, cube)


def test_skill_by_thirds_of_the_distance():
    n = 9
    scores = pd.DataFrame({"site": [f"S{i}" for i in range(n)], "target": "gpp", "scale": "daily", "nse": np.arange(n) / 10})
    far = pd.DataFrame({"site": scores.site, "distance": np.arange(n)[::-1]})
    table = score_by_distance(scores, far)
    assert table["median"].tolist() == pytest.approx([0.7, 0.4, 0.1]) and table.sites.tolist() == [3, 3, 3] and table.rank_correlation[0] == pytest.approx(-1)
    with pytest.raises(ValueError, match="six sites"):
        score_by_distance(scores[:5], far)


def test_without_validation_sites_the_members_stand_alone(tmp_path, monkeypatch):
    run, cube = run_and_cube(spread=0.5, base=0.1, slope=0.0, n_sites=4, days=60)
    values = xr.Dataset({"a.b": (("member", "site"), np.arange(8.0).reshape(2, 4), {"lower": 0.0, "upper": 10.0})}, {"site": cube.site})
    ensemble = SimpleNamespace(member_parameters=lambda cube: values, simulate=lambda *args, **kwargs: run, members=[SimpleNamespace(forcing_options={})])
    monkeypatch.setattr(hu, "feature_distance", lambda hybrid, train, cube: pd.DataFrame({"site": cube.site.values, "distance": 1.0, "nearest": "S00"}))
    split = {"S00": "train", "S01": "train", "S02": "test", "S03": "test"}
    hu.save_uncertainty(tmp_path / "run", ensemble, cube, split)
    assert set(pd.read_csv(tmp_path / "run/coverage.csv").interval) == {"ensemble"} and not (tmp_path / "run/residuals.csv").exists()
    with pytest.raises(ValueError, match="'test'"):
        hu.save_uncertainty(tmp_path / "other", ensemble, cube, dict.fromkeys(split, "train"))


def test_what_an_ensemble_refuses(tmp_path):
    one, other = HybridModel(wroasted(), ["igbp"], seed=0), HybridModel(wroasted(), ["igbp"], seed=1, spinup="none")
    with pytest.raises(ValueError, match="at least two"):
        HybridEnsemble([one])
    with pytest.raises(ValueError, match="same spinup"):
        HybridEnsemble([one, other])
    with pytest.raises(RuntimeError, match="not been trained"):
        HybridEnsemble([one, one]).predict_parameters(synthetic_weather(n_sites=2, years=1, seed=0))
    with pytest.raises(FileNotFoundError, match="no ensemble"):
        HybridEnsemble.load(tmp_path)
    run, cube = run_and_cube(spread=0.5, base=0.1, slope=0.0, n_sites=2, days=50)
    with pytest.raises(ValueError, match="gpp_spread"):
        hu.coverage(run.drop_vars("gpp_spread"), cube)
    with pytest.raises(ValueError, match="between 0 and 1"):
        hu.coverage(run, cube, levels=[90])
