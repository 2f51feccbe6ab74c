"""The synthetic weather: physics, determinism, independence of the number of sites, climates and their classes."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridecosys.data.bioclim import bioclim, koppen_from_weather
from hybridecosys.data.cube import IGBP, VARIABLES, validate_cube
from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.data.weather import (
    CLIMATES,
    NIGHT,
    draw_climate,
    site_weather,
    synthetic_weather,
    wet_days,
)

N = 2 * len(CLIMATES)


@pytest.fixture(scope="module")
def cube():
    return synthetic_weather(n_sites=N, years=4, seed=11)


def test_layout(cube):
    assert dict(cube.sizes) == {"site": N, "time": 4 * 365}
    assert not ((cube.time.dt.month == 2) & (cube.time.dt.day == 29)).any() and (cube.time.dt.year == 2004).sum() == 365
    assert all("units" in cube[v].attrs for v in cube.data_vars if cube[v].dtype.kind == "f")
    for v in cube.data_vars:
        if v in VARIABLES.index:
            assert cube[v].attrs["units"] == VARIABLES.unit[v], v


def test_passes_validation_unchanged(cube):
    checked = validate_cube(cube)
    for v in cube.data_vars:
        np.testing.assert_array_equal(checked[v].values, cube[v].values, err_msg=v)


def test_gives_complete_forcing(cube):
    forcing = prepare_forcing(cube)
    assert forcing.sizes["time"] == cube.sizes["time"]
    for v in ("precip", "t_air", "t_air_day", "rg", "rg_pot", "rn", "vpd_day", "co2"):
        assert np.isfinite(forcing[v]).all(), v
    assert 0.2 < (forcing.rn.mean() / forcing.rg.mean()) < 0.7


@pytest.mark.parametrize("seed", range(5))
def test_physical_bounds(seed):
    c = synthetic_weather(n_sites=len(CLIMATES), years=2, seed=seed)
    assert (c.TA_F_MIN <= c.TA_F).all() and (c.TA_F <= c.TA_F_MAX).all()
    assert (c.SW_IN_F >= 0).all() and (c.SW_IN_F <= 0.86 * c.SW_IN_POT + 1e-9).all()
    assert (c.P_F >= 0).all() and c.P_F.max() < 400
    assert (c.VPD_F >= 0).all() and c.VPD_F.max() < 90
    day = c.SW_IN_F >= NIGHT
    for v in ("TA_F_DAY", "VPD_F_DAY"):
        assert (c[v].notnull() == day).all()
    assert (c.TA_F_DAY <= c.TA_F_MAX).where(day, True).all() and (c.TA_F_DAY >= c.TA_F).where(day, True).all()
    assert -65 < c.TA_F_MIN.min() and c.TA_F_MAX.max() < 58
    for v in set(c.data_vars) - {"TA_F_DAY", "VPD_F_DAY"}:
        if c[v].dtype.kind == "f":
            assert np.isfinite(c[v]).all(), v
    assert ((c.sand + c.clay) < 0.95).all() and (c.sand > 0.05).all() and (c.clay > 0.04).all()


def test_deterministic_and_independent_of_n_sites(cube):
    xr.testing.assert_identical(cube, synthetic_weather(n_sites=N, years=4, seed=11))
    few = synthetic_weather(n_sites=3, years=4, seed=11)
    xr.testing.assert_equal(few, cube.isel(site=slice(0, 3)))
    assert abs(few.TA_F - synthetic_weather(n_sites=3, years=4, seed=12).TA_F).max() > 1


def test_sites_of_one_climate_differ(cube):
    a, b = cube.isel(site=0), cube.isel(site=len(CLIMATES))
    assert a.climate == b.climate and abs(a.TA_F.mean() - b.TA_F.mean()) > 0.01
    assert abs(np.corrcoef(a.P_F, b.P_F)[0, 1]) < 0.2  # independent streams


def test_from_boreal_to_tropical(cube):
    assert {k[0] for k in cube.koppen.values} == set("ABCDE")
    b = bioclim(cube)
    assert b.bio1.min() < -3 and b.bio1.max() > 24 and b.bio12.min() < 350 and b.bio12.max() > 1800
    assert set(cube.igbp.values) <= set(IGBP) and len(set(cube.igbp.values)) >= 6
    assert (koppen_from_weather(cube).values == cube.koppen.values).all()
    dry = cube.aridity_index < 0.5
    assert dry.any() and set(cube.igbp.values[dry.values]) <= {"OSH", "SAV", "GRA", "WSA", "CRO", "CSH"}


def test_rain_statistics(cube):
    wet = cube.P_F > 0
    days = dict(zip(cube.climate.values, wet.mean("time").values))
    assert days["rainforest"] > 0.5 and days["desert_shrub"] < 0.2
    lag = [np.corrcoef(w[1:], w[:-1])[0, 1] for w in wet.values.astype(float)]
    assert 0.15 < np.mean(lag) < 0.5
    july = cube.time.dt.month.isin([6, 7, 8])
    med = cube.isel(site=list(cube.climate.values).index("mediterranean")).P_F
    assert med.where(july).sum() < 0.15 * med.sum()


def test_wet_days_are_cloudier_cooler_in_summer_and_more_humid(cube):
    s = cube.isel(site=list(cube.climate.values).index("temperate_oceanic"))
    summer, wet = s.time.dt.month.isin([6, 7, 8]), s.P_F > 0
    for v in ("SW_IN_F", "TA_F", "VPD_F"):
        assert s[v].where(summer & wet).mean() < s[v].where(summer & ~wet).mean(), v


def test_hemispheres():
    time = pd.date_range("2001-01-01", periods=365)
    c = dict(CLIMATES.loc["continental_hot"])
    north, south = (site_weather(np.random.default_rng(0), c | {"latitude": lat}, time) for lat in (41.0, -41.0))
    for v in ("TA_F", "SW_IN_POT"):
        assert north[v][:31].mean() < north[v][181:212].mean() and south[v][:31].mean() > south[v][181:212].mean(), v


def test_polar_night():
    time = pd.date_range("2001-01-01", periods=365)
    w = site_weather(np.random.default_rng(0), dict(CLIMATES.loc["tundra"]) | {"latitude": 74.0}, time)
    assert np.isnan(w["TA_F_DAY"][:10]).all() and w["SW_IN_F"][0] == 0 and np.isfinite(w["VPD_F"]).all()


def test_co2_rises(cube):
    year = cube.CO2.groupby("time.year").mean()
    assert (year.diff("year") > 1).all() and 365 < year[0] < 378


def test_markov_chain_limits():
    rng = np.random.default_rng(0)
    assert not wet_days(rng, np.zeros(100)).any() and wet_days(rng, np.ones(100)).all()


@pytest.mark.parametrize(
    "kw, match", [({"n_sites": 0}, "n_sites"), ({"years": 0}, "years"), ({"n_sites": 2.5}, "n_sites")]
)
def test_bad_arguments(kw, match):
    with pytest.raises(ValueError, match=match):
        synthetic_weather(**kw)
    with pytest.raises(ValueError, match="jungle"):
        draw_climate(np.random.default_rng(0), "jungle")
