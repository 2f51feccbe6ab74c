"""Bioclimatic variables against a plain-Python reference; features: leakage, missing values, errors, scikit-learn."""

import json
import statistics
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridecosys.data.bioclim import (
    BIOCLIM,
    DAYS_IN_MONTH,
    aridity_index,
    bioclim,
    bioclim_from_months,
    koppen_class,
    koppen_from_weather,
    monthly_climatology,
)
from hybridecosys.data.cube import open_cube, real_data_path
from hybridecosys.data.features import (
    DEFAULT_GROUPS,
    FeatureEncoder,
    check_groups,
    site_features,
)
from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.data.weather import synthetic_weather


@pytest.fixture(scope="module")
def cube():
    return synthetic_weather(n_sites=16, years=2, seed=3)


def reference(p, low, high):
    "The 19 variables of one site by loops, from the words of O'Donnell and Ignizio 2012."
    t = [(a + b) / 2 for a, b in zip(low, high)]
    quarters = [[m, (m + 1) % 12, (m + 2) % 12] for m in range(12)]
    rain, warmth = [sum(p[i] for i in q) for q in quarters], [sum(t[i] for i in q) / 3 for q in quarters]

    def first(values, best):
        return values.index(best(values))

    wet, dry, warm, cold = first(rain, max), first(rain, min), first(warmth, max), first(warmth, min)
    spread = sum(b - a for a, b in zip(low, high)) / 12
    annual = max(high) - min(low)
    return [
        sum(t) / 12,
        spread,
        100 * spread / annual,
        100 * statistics.stdev(t),
        max(high),
        min(low),
        annual,
        warmth[wet],
        warmth[dry],
        warmth[warm],
        warmth[cold],
        sum(p),
        max(p),
        min(p),
        100 * statistics.stdev(p) / (1 + sum(p) / 12),
        rain[wet],
        rain[dry],
        rain[warm],
        rain[cold],
    ]


def test_bioclim_equals_loops_for_many_sites():
    rng = np.random.default_rng(0)
    p, low = rng.gamma(0.5, 80, (50, 12)), rng.normal(5, 12, (50, 12))
    high = low + rng.uniform(2, 20, (50, 12))
    ours = bioclim_from_months(p, low, high)
    theirs = np.array([reference(*(a.tolist() for a in site)) for site in zip(p, low, high)])
    np.testing.assert_allclose(np.stack([ours[k] for k in BIOCLIM.index], 1), theirs, rtol=1e-10)


def test_bioclim_december_quarter_wraps():
    p = np.zeros(12)
    p[[11, 0, 1]] = 100.0  # rain in December, January, February only
    t = np.arange(12.0)
    b = bioclim_from_months(p, t - 1, t + 1)
    assert b["bio16"] == 300 and b["bio8"] == pytest.approx((11 + 0 + 1) / 3)


def test_bioclim_of_cube_uses_valid_days_only(cube):
    gaps = cube.copy(deep=True)
    for v in ("TA_F", "TA_F_MIN", "TA_F_MAX", "P_F"):
        gaps[v][0, :365] = np.nan  # first year missing
    first = bioclim(gaps).isel(site=0)
    alone = bioclim(cube.isel(time=slice(365, None))).isel(site=0)
    for k in BIOCLIM.index:
        assert first[k].item() == pytest.approx(alone[k].item(), rel=1e-12)


def test_bioclim_names_site_without_a_month(cube):
    gaps = cube.copy(deep=True)
    gaps["P_F"][3] = gaps["P_F"][3].where(gaps.time.dt.month != 7)
    with pytest.warns(UserWarning, match="SY-004"):
        b = bioclim(gaps)
    assert np.isnan(b.bio1[3]) and np.isfinite(b.bio1[[0, 1, 2, 4]]).all()


def test_bioclim_from_forcing_names(cube):
    forcing = xr.Dataset(
        {"precip": cube.P_F, "t_air": cube.TA_F, "t_air_day": cube.TA_F + 0.45 * (cube.TA_F_MAX - cube.TA_F)}
    )
    a, b = bioclim(forcing), bioclim(cube)
    for k in BIOCLIM.index:
        np.testing.assert_allclose(a[k], b[k], rtol=1e-9, atol=1e-9)


def test_precipitation_climatology_is_a_sum(cube):
    total = cube.P_F.sum("time") / 2
    np.testing.assert_allclose(bioclim(cube).bio12, total, rtol=1e-12)
    np.testing.assert_allclose((monthly_climatology(cube.P_F) * DAYS_IN_MONTH).sum("month"), total, rtol=1e-12)


def test_climatology_with_leap_day_and_cftime():
    time = pd.date_range("2004-01-01", "2004-12-31")
    x = xr.DataArray(np.ones((1, 366)), dims=("site", "time"), coords={"site": ["a"], "time": time})
    assert (monthly_climatology(x) == 1).all()
    noleap = x.convert_calendar("noleap", use_cftime=True)
    assert (monthly_climatology(noleap) == 1).all()
    with pytest.raises(ValueError, match="time"):
        monthly_climatology(x.rename(time="t"))


def test_missing_weather_is_named(cube):
    with pytest.raises(ValueError, match="TA_F_MIN"):
        bioclim(cube[["TA_F", "P_F"]])
    with pytest.raises(ValueError, match="air temperature"):
        bioclim(cube[["P_F"]])
    with pytest.raises(ValueError, match="12 months"):
        bioclim_from_months(np.zeros(11), np.zeros(11), np.zeros(11))


@pytest.mark.parametrize(
    "t, p, expected",
    [
        ([-30, -25, -15, -5, 2, 6, 9, 8, 3, -8, -20, -28], [15] * 12, "ET"),
        ([-50, -45, -40, -35, -25, -15, -10, -12, -25, -35, -45, -50], [10] * 12, "EF"),
        ([-42, -38, -25, -8, 6, 15, 18, 14, 5, -10, -30, -41], [10, 8, 8, 12, 25, 45, 60, 50, 30, 20, 14, 11], "Dfd"),
        ([27] * 12, [300, 300, 250, 200, 150, 100, 50, 40, 80, 150, 250, 300], "Am"),
        ([2, 5, 9, 14, 19, 23, 27, 26, 21, 15, 8, 3], [5, 5, 10, 20, 40, 90, 180, 160, 60, 20, 10, 5], "Cwa"),
        ([-3, -1, 4, 9, 14, 19, 23, 22, 17, 10, 3, -2], [25, 20, 22, 28, 35, 30, 20, 20, 18, 20, 22, 25], "BSk"),
    ],
)
def test_koppen_key(t, p, expected):
    assert koppen_class(t, p) == expected


def test_koppen_bad_input():
    assert koppen_class([np.nan] + [10] * 11, [10] * 12) == ""
    with pytest.raises(ValueError, match="negative"):
        koppen_class([10] * 12, [-1] + [10] * 11)


# --- features


def test_groups_off_by_default(cube):
    green = cube.assign(FAPAR=(cube.TA_F * 0 + 0.5).assign_attrs(units="1"), agb=("site", np.arange(16.0), {"units": "gC m-2"}))
    names = FeatureEncoder().fit(green).names
    assert not any(w in n for n in names for w in ("fapar", "agb", "latitude", "longitude"))
    assert "absolute_latitude" in FeatureEncoder(["location"]).fit(green).names
    assert "fapar_mean" in FeatureEncoder(["greenness"]).fit(green).names


def test_every_default_group_has_columns(cube):
    groups = [*DEFAULT_GROUPS, "koppen", "soil", "deposition"]
    x = FeatureEncoder(groups).fit_transform(cube.assign(slope=("site", np.arange(16.0))))
    assert set(x.group.values) == set(groups) and np.isfinite(x).all() and "slope" in x.feature
    assert (
        x.sel(feature=x.group == "igbp").sizes["feature"] == 17
        and x.sel(feature=x.group == "koppen").sizes["feature"] == 32
    )


@pytest.mark.parametrize(
    "groups, match", [(["soi"], "soi"), (["soil", "soil"], "twice"), ([], "at least one"), ("soil", "list of names")]
)
def test_bad_groups(groups, match):
    with pytest.raises((ValueError, TypeError), match=match):
        check_groups(groups)
    with pytest.raises((ValueError, TypeError), match=match):
        FeatureEncoder(groups)


def test_no_leakage_from_held_out_sites(cube):
    train, held_out = cube.isel(site=slice(0, 10)), cube.isel(site=slice(10, None))
    a = FeatureEncoder().fit(train)
    wild = held_out.copy(deep=True)
    for v in wild.data_vars:
        if wild[v].dtype.kind == "f":
            wild[v] = wild[v] * 50 + 1000
    b = FeatureEncoder().fit(train)
    with pytest.warns(UserWarning):
        b.transform(wild)  # transforming must not change the encoder either
    assert a.to_dict() == b.to_dict()
    xr.testing.assert_identical(a.transform(train), b.transform(train))
    assert FeatureEncoder().fit(cube).to_dict() != a.to_dict()  # and the check can fail: other sites in fit do matter


def test_site_alone_equals_site_among_others(cube):
    e = FeatureEncoder().fit(cube)
    xr.testing.assert_allclose(e.transform(cube).isel(site=[5]), e.transform(cube.isel(site=[5])), rtol=1e-12)


def test_same_as_scikit_learn(cube):
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    gap = cube.copy(deep=True)
    gap["elevation"][[1, 7]] = np.nan
    raw = gap.elevation.values[:, None]
    z = StandardScaler().fit(raw).transform(SimpleImputer(strategy="median").fit_transform(raw))
    x = FeatureEncoder(["site"]).fit_transform(gap)
    np.testing.assert_allclose(x.sel(feature="elevation"), z[:, 0], rtol=1e-10)
    np.testing.assert_array_equal(x.sel(feature="elevation_missing"), np.isnan(raw[:, 0]))


def test_missing_later_only_warns(cube):
    e = FeatureEncoder(["soil"]).fit(cube)
    gap = cube.copy(deep=True)
    gap["sand"][4] = np.nan
    with pytest.warns(UserWarning, match="sand is missing at SY-005"):
        x = e.transform(gap)
    assert x.sel(feature="sand")[4] == pytest.approx(
        (np.median(cube.sand) - cube.sand.mean().item()) / cube.sand.std().item()
    )


def test_all_missing_or_constant_is_zero(cube):
    odd = cube.copy(deep=True)
    odd["sand"][:] = np.nan
    odd["clay"][:] = 0.3
    with pytest.warns(UserWarning, match="sand is missing at all"):
        e = FeatureEncoder(["soil"]).fit(odd)
    x = e.transform(cube)
    assert (x.sel(feature=["sand", "clay"]) == 0).all() and np.isfinite(x).all()


def test_unknown_and_unseen_classes(cube):
    e = FeatureEncoder(["igbp"]).fit(cube)
    other = cube.assign(igbp=("site", ["WAT", "unknown"] + ["EBF"] * 14))
    with pytest.warns(UserWarning, match="WAT at SY-001, unknown at SY-002"):
        x = e.transform(other)
    assert (x[:2] == 0).all() and (x[2:].sum("feature") == 1).all()
    with pytest.raises(ValueError, match="SY-003: unknown koppen class 'Zz'"):
        site_features(cube.assign(koppen=("site", ["Cfb", "Cfb", "Zz"] + ["Cfb"] * 13)), groups=["koppen"])


def test_errors_name_the_culprit(cube):
    with pytest.raises(RuntimeError, match="not fitted"):
        FeatureEncoder().transform(cube)
    with pytest.raises(RuntimeError, match="not fitted"):
        FeatureEncoder().to_dict()
    with pytest.raises(ValueError, match="'deposition'"):
        FeatureEncoder(["deposition"]).fit(cube.drop_vars(["n_deposition", "p_deposition"]))
    with pytest.raises(ValueError, match="stand_age"):
        FeatureEncoder().fit(cube).transform(cube.drop_vars("stand_age"))
    with pytest.raises(ValueError, match="koppen"):
        FeatureEncoder(["koppen"]).fit(cube).transform(cube.drop_vars("koppen"))
    with pytest.raises(ValueError, match="SY-002: canopy_height is -1"):
        FeatureEncoder(["site"]).fit(cube.assign(canopy_height=("site", [1.0, -1.0] + [1.0] * 14, {"units": "m"})))
    with pytest.raises(ValueError, match="no training site"):
        FeatureEncoder(["soil"]).fit(cube.isel(site=[]))


def test_json_round_trip(cube):
    gap = cube.copy(deep=True)
    gap["sand"][:5] = np.nan
    e = FeatureEncoder().fit(gap)
    again = FeatureEncoder.from_dict(json.loads(json.dumps(e.to_dict())))
    xr.testing.assert_identical(again.transform(gap), e.transform(gap))
    assert again.names == e.names and again.to_dict() == e.to_dict()
    with pytest.raises(ValueError, match="version"):
        FeatureEncoder.from_dict(e.to_dict() | {"version": 99})
    with pytest.raises(ValueError, match="scaling"):
        FeatureEncoder.from_dict({k: v for k, v in e.to_dict().items() if k != "scaling"})


def test_forcing_serves_where_the_cube_has_no_weather(cube):
    forcing = xr.Dataset(
        {"precip": cube.P_F, "t_air": cube.TA_F, "t_air_day": cube.TA_F + 0.45 * (cube.TA_F_MAX - cube.TA_F)}
    )
    attributes = cube.drop_dims("time")
    with pytest.raises(ValueError, match="bioclim"):
        FeatureEncoder(["bioclim"]).fit(attributes)
    x = FeatureEncoder(["bioclim"]).fit_transform(
        attributes, forcing.isel(site=slice(None, None, -1))
    )  # aligned by site label
    np.testing.assert_allclose(x, FeatureEncoder(["bioclim"]).fit_transform(cube), atol=1e-7)


def test_sites_without_daily_extremes_take_their_range_from_radiation(cube):
    """A SUBSET file has no extremes: the same derivation as in the forcing, site by site, and never NaN for another site's sake."""
    subset = cube.drop_vars(["TA_F_MIN", "TA_F_MAX", "TA_F_DAY"])
    with pytest.warns(UserWarning, match="no daily extremes of temperature at SY-001, SY-002.*radiation"):
        alone = bioclim(subset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forcing = prepare_forcing(subset)
    lit = forcing.rg.min() > 0.5
    for k in ("bio1", "bio12", "bio5", "bio6"):
        np.testing.assert_allclose(alone[k], bioclim(forcing)[k], rtol=1e-6 if lit else 2e-2, atol=0.2)
    joined = xr.concat([subset.isel(site=slice(0, 8)), cube.isel(site=slice(8, None))], "site", data_vars="all", join="outer")
    with pytest.warns(UserWarning, match="SY-001.*SY-008: the daily range"):
        both = bioclim(joined)
    for k in BIOCLIM.index:
        np.testing.assert_allclose(both[k][:8], alone[k][:8], rtol=1e-9)
        np.testing.assert_allclose(both[k][8:], bioclim(cube)[k][8:], rtol=1e-9)
    assert np.isfinite(aridity_index(joined)).all() and (koppen_from_weather(joined) == koppen_from_weather(cube)).all()


def test_real_cube():
    if (path := real_data_path("fluxnet/fluxnet2015_daily.nc")) is None:
        pytest.skip("the FLUXNET2015 cube is not here (set HYBRIDECOSYS_DATA)")
    real = open_cube(path)
    e = FeatureEncoder(["plant_form", "igbp", "koppen", "bioclim", "site", "soil", "deposition"]).fit(real.isel(site=slice(None, None, 2)))
    with pytest.warns(UserWarning, match="encoded as zeros"):
        x = e.transform(real)
    assert x.shape == (109, len(e.names)) and np.isfinite(x).all()
    far = {(str(x.site.values[i]), str(x.feature.values[j])) for i, j in np.argwhere((abs(x) >= 12).values)}
    assert far <= {("FI-Sod", "soil_organic_carbon"), ("FI-Sod", "soil_bulk_density")}  # the one site on peat
    marked = {"soil_ph_missing", "sand_missing", "n_deposition_missing"}
    assert marked <= set(e.names) and (x.sel(feature="sand_missing") == real.sand.isnull()).all()
    extra = FeatureEncoder(["traits", "vegetation", "management", "disturbance"]).fit_transform(real)
    assert np.isfinite(extra).all() and set(extra.feature.values) > {"vcmax25_map", "c4_fraction", "managed_harvest", "stand_age_site"}
    assert np.mean([a[0] == b[0] for a, b in zip(koppen_from_weather(real).values, real.koppen.values)]) > 0.8
    assert np.corrcoef(aridity_index(real), real.aridity_index)[0, 1] > 0.7
