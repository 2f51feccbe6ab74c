"""Forcing: gaps, radiation, CO2, records of different length, and the physics of what is derived."""

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cubes import DAYS, put, small_cube

from hybridecosys.data.cube import open_cube, real_data_path
from hybridecosys.data.derived import CO2_SOURCE, default_co2, net_radiation, potential_radiation
from hybridecosys.data.forcing import FORCING, prepare_forcing
from hybridecosys.data.gaps import fill_short_gaps
from hybridecosys.data.observations import TARGETS, observations

NAN = np.nan
NAMES = list(FORCING.index)
INPUT_GAPS = ["TA_F", "SW_IN_F", "VPD_F", "P_F"]


def test_clean_cube_gives_clean_forcing_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forcing = prepare_forcing(small_cube())
    assert forcing.sizes["time"] == len(DAYS) - 1 and not forcing[NAMES].isnull().any().to_array().any()
    for name in NAMES:
        assert forcing[name].dtype == np.float64 and forcing[name].dims == ("site", "time")
        assert forcing[name].attrs["units"] == FORCING.unit[name]
    np.testing.assert_allclose(forcing.rg, small_cube().SW_IN_F.sel(time=forcing.time) * 0.0864)
    assert list(forcing.plant_form.values) == ["tree", "herb", "shrub"] and (forcing.disturbance == 0).all()


@pytest.mark.parametrize("name", INPUT_GAPS)
def test_nan_in_forcing_names_site_variable_and_dates(name):
    bad = put(put(small_cube(), name, NAN, days=slice(40, 46)), name, NAN, days=slice(500, 520))
    with pytest.raises(ValueError) as error:
        prepare_forcing(bad)
    for part in (
        f"{name} at site XX-Bbb, 6 days, 2003-02-10 to 2003-02-15",
        f"{name} at site XX-Bbb, 20 days, 2004-05-",
    ):
        assert part in str(error.value)
    with pytest.warns(UserWarning, match="XX-Bbb, 6 days"):
        cut = prepare_forcing(bad, on_gap="longest")
    left = cut.isel(site=1).dropna("time", subset=["precip"])
    assert left.sizes["time"] == 1095 - 520 + 1 and (cut.isel(site=0).t_air.notnull()).all()  # 29 February dropped
    assert (np.diff(left.time) == np.timedelta64(1, "D")).all() and not left[NAMES].isnull().any().to_array().any()


@pytest.mark.parametrize("name", INPUT_GAPS)
def test_short_gaps_are_interpolated_linearly_and_counted(name):
    whole = small_cube()
    with pytest.warns(UserWarning, match=f"interpolated {name} 3 d at 1 site"):
        forcing = prepare_forcing(put(whole, name, NAN, days=slice(40, 43)))
    target = {"TA_F": "t_air", "SW_IN_F": "rg", "VPD_F": "vpd_day", "P_F": "precip"}[name]
    assert forcing.interpolated_days.sel(input=name).values.tolist() == [0, 3, 0]
    if name != "VPD_F":
        got = forcing[target].values[1, 39:44]
        np.testing.assert_allclose(np.diff(got, 2), 0, atol=1e-9)
    same = prepare_forcing(whole)
    assert (forcing[target].values[[0, 2]] == same[target].values[[0, 2]]).all()


@pytest.mark.parametrize("option, culprit", [({"co2": -5}, "co2=-5"), ({"albedo": 23.0}, "albedo=23"), ({"rg_tolerance": 0.5}, "rg_tolerance=0.5"), ({"max_gap": -1}, "max_gap=-1")])
def test_options_out_of_bounds(option, culprit):
    with pytest.raises(ValueError, match=culprit):
        prepare_forcing(small_cube(), **option)


def test_unknown_elevation_is_told_where_net_radiation_is_computed():
    with pytest.warns(UserWarning, match="elevation unknown, 0 m assumed, at 3 sites: XX-Aaa, XX-Bbb, XX-Ccc"):
        sea_level = prepare_forcing(small_cube().drop_vars("elevation")).rn
    gap = small_cube().assign(elevation=("site", [2000.0, NAN, 0.0], {"units": "m"}))
    with pytest.warns(UserWarning, match="0 m assumed, at 1 sites: XX-Bbb$"):
        rn = prepare_forcing(gap).rn
    assert (rn[0] != sea_level[0]).any() and (rn[1:] == sea_level[1:]).all()
    measured = small_cube().drop_vars("elevation").assign(NETRAD=(small_cube().SW_IN_F * 0.5).assign_attrs(units="W m-2"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare_forcing(measured)


def test_max_gap_is_an_option():
    bad = put(small_cube(), "P_F", NAN, days=slice(40, 46))
    with pytest.warns(UserWarning, match="interpolated P_F 6 d"):
        prepare_forcing(bad, max_gap=6)
    with pytest.raises(ValueError, match="1 days, 2003-02-10"):
        prepare_forcing(put(small_cube(), "P_F", NAN), max_gap=0)
    with pytest.raises(ValueError, match="on_gap must be one of error, longest, not 'skip'"):
        prepare_forcing(small_cube(), on_gap="skip")


def test_gap_at_the_start_of_one_input_is_not_extrapolated():
    late = put(small_cube(), "P_F", NAN, days=slice(0, 3))
    with pytest.raises(ValueError, match="P_F at site XX-Bbb, 3 days, 2003-01-01 to 2003-01-03"):
        prepare_forcing(late)


def test_interpolation_never_leaves_the_neighbours():
    rng = np.random.default_rng(1)
    values = np.where(rng.random(400) < 0.2, NAN, rng.random(400))
    filled, n, left = fill_short_gaps(values, 3)
    assert n == np.isnan(values).sum() - np.isnan(filled).sum() and np.nanmax(filled) <= np.nanmax(values)
    assert all(b - a + 1 > 3 or a == 0 or b == 399 for a, b in left) and np.array_equal(
        filled[~np.isnan(values)], values[~np.isnan(values)]
    )


def test_sites_of_different_length():
    cube = small_cube()
    for name in INPUT_GAPS:
        cube = put(put(cube, name, NAN, site=0, days=slice(0, 365)), name, NAN, site=2, days=slice(700, None))
    forcing = prepare_forcing(cube)
    assert forcing.t_air.notnull().sum("time").values.tolist() == [730, 1095, 699]
    known = forcing.t_air.notnull()
    assert all((forcing[v].notnull() == known).all() for v in NAMES)


def test_site_without_any_forcing_is_named():
    cube = small_cube()
    for name in INPUT_GAPS:
        cube = put(cube, name, NAN, days=slice(None))
    with pytest.raises(ValueError, match="site XX-Bbb has no day"):
        prepare_forcing(cube)
    with pytest.raises(ValueError, match="no site has a day"):
        prepare_forcing(cube.isel(site=[1]))


def test_radiation_far_above_potential():
    with pytest.raises(ValueError, match="SW_IN_F: .* far above the potential .* at site XX-Bbb on 2003-02-10"):
        prepare_forcing(put(small_cube(), "SW_IN_F", 400.0))
    wrong_place = small_cube().assign(latitude=("site", [50.0, -70.0, 50.0], {"units": "degrees_north"}))
    with pytest.raises(ValueError, match="far above the potential .*XX-Bbb"):
        prepare_forcing(wrong_place)
    potential = potential_radiation(small_cube().latitude, DAYS)[1, 40].item() / 0.0864
    with pytest.warns(UserWarning, match=r"5 % above potential radiation.*XX-Bbb \(1 d\)"):
        prepare_forcing(put(small_cube(), "SW_IN_F", 1.3 * potential))


def test_bad_values_are_caught_by_prepare_forcing_too():
    for name in ("VPD_F", "P_F"):
        with pytest.raises(ValueError, match=f"{name}: -1 .*XX-Bbb on 2003-02-10"):
            prepare_forcing(put(small_cube(), name, -1.0))
    with pytest.raises(ValueError, match="XX-Ccc: igbp 'ABC'"):
        prepare_forcing(small_cube().assign(igbp=("site", ["DBF", "GRA", "ABC"])))


def test_unvegetated_classes_run_as_herbs_with_a_warning():
    with pytest.warns(UserWarning, match=r"XX-Bbb \(SNO\), XX-Ccc \(unknown\) treated as herb"):
        forcing = prepare_forcing(small_cube().assign(igbp=("site", ["DBF", "SNO", ""])))
    assert list(forcing.plant_form.values) == ["tree", "herb", "herb"]


def test_disturbance_of_the_cube_is_kept():
    events = small_cube().P_F * NAN
    cube = put(small_cube().assign(disturbance=events.assign_attrs(units="1")), "disturbance", 0.8)
    forcing = prepare_forcing(cube)
    assert forcing.disturbance.values[1, 40] == 0.8 and float(forcing.disturbance.sum()) == 0.8
    with pytest.raises(ValueError, match="disturbance: 1.5 1 is above 1 at site XX-Bbb"):
        prepare_forcing(put(cube, "disturbance", 1.5))


def test_greenness_only_moves_the_cover_fractions():
    with_it, without = prepare_forcing(small_cube()), prepare_forcing(small_cube(), greenness=False)
    assert without.vegetation_fraction.values.tolist() == [0.9, 0.75, 0.4]
    assert (with_it.vegetation_fraction != without.vegetation_fraction).all()
    assert all(with_it[v].equals(without[v]) for v in NAMES)


def test_default_texture_is_flagged():
    cube = small_cube().assign(sand=("site", [0.6, NAN, 0.3], {"units": "1"}))
    with pytest.warns(UserWarning, match="unknown at 1 of 3 sites"):
        forcing = prepare_forcing(cube)
    assert forcing.texture_is_default.values.tolist() == [False, True, False]
    assert forcing.sand.values.tolist() == [0.6, 0.4, 0.3] and forcing.clay.values.tolist() == [0.2, 0.2, 0.2]


def with_co2(values):
    return small_cube().assign(CO2=("time", values, {"units": "ppm"}))


def test_co2_choices():
    ramp = np.linspace(370, 385, len(DAYS))
    assert prepare_forcing(with_co2(ramp)).co2.values[0, 0] == 370
    default = prepare_forcing(with_co2(ramp), co2="default").co2
    assert default.sel(time="2004-07-01").values[0] == pytest.approx(377.70, abs=0.02)
    assert (prepare_forcing(small_cube(), co2=400).co2 == 400).all()
    flat = with_co2(np.full(len(DAYS), 418.82))
    with pytest.warns(UserWarning, match="constant at 418.82 ppm"):
        assert float(prepare_forcing(flat).co2.max()) < 385
    assert (prepare_forcing(flat, co2="cube").co2 == 418.82).all()
    gappy = with_co2(np.where(np.arange(len(DAYS)) == 5, NAN, ramp))
    with pytest.raises(ValueError, match='co2="cube", but CO2 has gaps at site XX-Aaa'):
        prepare_forcing(gappy, co2="cube")
    with pytest.raises(ValueError, match="neither CO2 nor CO2_F_MDS"):
        prepare_forcing(small_cube(), co2="cube")
    with pytest.raises(ValueError, match="co2='mean'"):
        prepare_forcing(small_cube(), co2="mean")
    with pytest.raises(ValueError, match="1959 to 2024.*co2="):
        default_co2(pd.date_range("1931-01-01", periods=2))


def test_co2_goes_on_after_the_series_with_a_warning():
    days = pd.date_range("2024-01-01", "2026-12-31")
    with pytest.warns(UserWarning, match="ends in 2024; 2025-01-01 to 2026-12-31 follow its trend.*co2="):
        late = prepare_forcing(small_cube(days)).co2[0]
    assert (late.diff("time") > 0).all() and 0 < float(late[-1] - late.sel(time="2025-12-31")) - 2 < 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (prepare_forcing(small_cube(days), co2=425.0).co2 == 425).all()


@pytest.mark.parametrize("name, value, clipped", [("SW_IN_F", -0.6, 0.0), ("VPD_F", -0.01, 0.0), ("P_F", -0.2, 0.0), ("VPD_F", 121.0, 120.0)])
def test_one_bad_day_is_an_error_a_gap_or_clipped_as_asked(name, value, clipped):
    bad = put(small_cube(), name, value)
    with pytest.raises(ValueError, match=f"{name}: {value:g}.*XX-Bbb on 2003-02-10.*out_of_range="):
        prepare_forcing(bad)
    with pytest.warns(UserWarning, match=f"{name} outside .* 1 clipped .*site XX-Bbb on 2003-02-10"):
        forcing = prepare_forcing(bad, out_of_range="clip")
    np.testing.assert_array_equal(forcing.rg, prepare_forcing(put(small_cube(), name, clipped)).rg)
    with pytest.warns(UserWarning, match="1 set missing"):
        gap = prepare_forcing(bad, out_of_range="missing")
    assert gap.interpolated_days.sel(input=name, site="XX-Bbb") == 1 and name in gap.attrs["out_of_range"]
    with pytest.raises(ValueError, match="out_of_range must be one of error, missing, clip, not 'skip'"):
        prepare_forcing(bad, out_of_range="skip")


def test_a_missing_value_code_is_never_clipped():
    bad = put(small_cube(), "VPD_F", -9999.0)
    with pytest.warns(UserWarning, match="1 set missing"):
        assert prepare_forcing(bad, out_of_range="clip").interpolated_days.sum() == 1


def test_columns_that_nobody_reads_only_warn():
    cube = small_cube()
    for name, unit, value in (("PA_F", "kPa", 999.0), ("GPP_DT_VUT_REF", "gC m-2 d-1", -150.0), ("CO2_F_MDS", "ppm", -3.0)):
        odd = put(cube.assign({name: (cube.TA_F * 0 + 400 * (unit == "ppm") + 90 * (unit == "kPa")).assign_attrs(units=unit)}), name, value)
        with pytest.warns(UserWarning, match=f"{name}: {value:g} .*nothing reads"):
            assert prepare_forcing(odd).equals(prepare_forcing(cube))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="CO2_F_MDS: -3 ppm is below 150 at site XX-Bbb"):
        prepare_forcing(odd, co2="cube")


def test_fluxes_out_of_range_follow_the_same_option():
    bad = put(small_cube(), "LE_F_MDS", -5000.0)
    with pytest.raises(ValueError, match="LE_F_MDS: -5000 .*out_of_range="):
        observations(bad)
    with pytest.warns(UserWarning, match="LE_F_MDS outside"):
        seen = observations(bad, out_of_range="missing")
    assert np.isnan(seen.evapotranspiration[1, 40]) and "LE_F_MDS" in seen.attrs["out_of_range"]


@pytest.mark.skipif(real_data_path("fluxnet/fluxnet2015_more_sites.nc") is None, reason="the second real cube (fluxnet/fluxnet2015_more_sites.nc) is not here")
def test_radiation_above_potential_at_ru_cok():
    real = open_cube(real_data_path("fluxnet/fluxnet2015_more_sites.nc")).sel(site=["RU-Cok"])
    with pytest.raises(ValueError, match="RU-Cok on 2012-11-03.*out_of_range="):
        prepare_forcing(real)
    for choice in ("missing", "clip"):
        with pytest.warns(UserWarning, match="SW_IN_F far above the potential: 1 .*RU-Cok on 2012-11-03"):
            forcing = prepare_forcing(real, out_of_range=choice)
        day = forcing.sel(time="2012-11-03").squeeze()
        assert 0 <= day.rg <= 1.05 * day.rg_pot + 0.5 and forcing.interpolated_days.sel(input="SW_IN_F") == (choice == "missing")


def test_measured_net_radiation_wins_and_its_gaps_are_computed():
    cube = small_cube().assign(NETRAD=small_cube().SW_IN_F * 0 + 100.0)
    cube.NETRAD.attrs["units"] = "W m-2"
    forcing = prepare_forcing(put(cube, "NETRAD", NAN, days=slice(40, 50)))
    computed = prepare_forcing(small_cube()).rn.values
    assert forcing.derived_days.sel(derived="rn").values.tolist() == [0, 10, 0]
    np.testing.assert_allclose(forcing.rn.values[1, 40:50], computed[1, 40:50])
    np.testing.assert_allclose(forcing.rn.values[0], 8.64)


def test_measured_daytime_means_win_and_derived_ones_are_warmer_and_drier():
    base = prepare_forcing(small_cube())
    assert (base.t_air_day >= base.t_air).all() and (
        base.vpd_day >= small_cube().VPD_F.sel(time=base.time) / 10 - 1e-12
    ).all()
    given = small_cube().assign(TA_F_DAY=(small_cube().TA_F + 1.25).assign_attrs(units="degC"))
    np.testing.assert_allclose(prepare_forcing(given).t_air_day, base.t_air + 1.25)
    assert prepare_forcing(given).derived_days.sel(derived="t_air_day").sum() == 0


def test_more_cloud_less_loss_more_humidity_less_loss():
    """Signs of FAO-56: net radiation rises with rg and with humidity, and falls with albedo."""
    grid = xr.DataArray(np.linspace(5, 25, 9)[None], dims=("site", "time"))
    args = dict(rg_pot=0 * grid + 40.0, t_mean=0 * grid + 15.0, vapour_pressure=0 * grid + 1.0)
    assert (net_radiation(grid, **args).diff("time") > 0).all()
    assert (net_radiation(grid, **args, albedo=0.3) < net_radiation(grid, **args, albedo=0.1)).all()
    assert (net_radiation(grid, **args | {"vapour_pressure": 0 * grid + 2.0}) > net_radiation(grid, **args)).all()


def test_potential_radiation_symmetry_and_polar_night():
    lat = xr.DataArray([-60.0, 0.0, 60.0, 80.0], dims="site", coords={"site": list("abcd")})
    ra = potential_radiation(lat, pd.date_range("2003-01-01", "2003-12-31"))
    assert (ra >= 0).all() and ra.sel(site="d").min() == 0 and float(ra.max()) < 50
    assert ra.sel(site="a").values[0] > ra.sel(site="c").values[0] and ra.sel(site="b").std() < ra.sel(site="c").std()


def test_observations_filter_units_and_errors():
    cube = put(small_cube(), "NEE_VUT_REF_QC", 0.5, days=slice(10, 20))
    obs = observations(cube)
    assert list(obs.data_vars) == ["gpp", "nee", "evapotranspiration", "fapar"]
    for name in ("gpp", "nee"):
        assert obs[name].isnull().sum() == 10 and obs[name].isnull().values[1, 10:20].all()
    assert obs.evapotranspiration.isnull().sum() == 0 and obs.sizes["time"] == len(DAYS) - 1
    np.testing.assert_allclose(obs.evapotranspiration, cube.LE_F_MDS.sel(time=obs.time) * 0.0864 / 2.45)
    assert obs.evapotranspiration.attrs["quality_filter"] == "none: the cube has no LE_F_MDS_QC"
    flagged = cube.assign(NEE_VUT_REF_QC=(cube.NEE_VUT_REF_QC * 0).assign_attrs(units="1"))
    with pytest.raises(ValueError, match="target gpp: no site has any observation"):
        observations(flagged, ["gpp"])
    with pytest.raises(ValueError, match="target transpiration: the cube has no variable T"):
        observations(cube, "transpiration")
    with pytest.raises(ValueError, match="'et' unknown"):
        observations(cube, ["gpp", "et"])
    with pytest.raises(ValueError, match="GPP_NT_VUT_REF: no unit"):
        observations(cube.assign(GPP_NT_VUT_REF=cube.GPP_NT_VUT_REF.drop_attrs()))


def test_percent_quality_flag_is_understood():
    cube = small_cube()
    percent = cube.assign(NEE_VUT_REF_QC=(cube.NEE_VUT_REF_QC * 100).assign_attrs(units="%"))
    assert observations(percent).gpp.equals(observations(cube).gpp)


def test_targets_name_outputs_of_the_model():
    outputs = {
        "gpp",
        "nee",
        "eco_respiration",
        "evapotranspiration",
        "transpiration",
        "fapar_bare",
        "aboveground_biomass",
    }
    assert (
        set(TARGETS.output) == outputs
        and set(TARGETS.metric) == {"nnse", "nmae1r"}
        and (TARGETS.min_qc[:-1] == 0.85).all()
    )


def test_importing_the_data_layer_is_light():
    code = (
        "import sys, hybridecosys.data.forcing, hybridecosys.data.observations, hybridecosys.data.fluxnet; "
        "print([m for m in ('jax', 'pyet', 'pint', 'pvlib', 'sklearn', 'matplotlib', 'zarr') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.skipif(real_data_path() is None, reason="the real cube (fluxnet/fluxnet2015_daily.nc) is not here")
def test_whole_real_cube():
    real = open_cube(real_data_path())
    assert "CO2" not in real
    with pytest.warns(UserWarning, match="soil texture unknown at 33 of 109 sites"):
        forcing = prepare_forcing(real)
    assert forcing.co2.attrs["source"] == CO2_SOURCE and 350 < forcing.co2.min() < forcing.co2.max() < 405
    assert int((~forcing.texture_is_default).sum()) == int((real.sand.notnull() & real.clay.notnull()).sum()) == 76
    known = forcing.t_air.notnull()
    assert known.sum() == 284325 and known.any("time").all()
    assert all((forcing[v].notnull() == known).all() for v in NAMES)
    edges = known.astype(int).diff("time")
    assert (edges == 1).sum("time").max() <= 1 and (edges == -1).sum("time").max() <= 1  # one contiguous record each
    assert (forcing.vpd_day.min() >= 0) and (forcing.rn.mean() > 4) and (forcing.rn.mean() < 9)
    assert ((forcing.tree_fraction > 0) == (forcing.plant_form != "herb")).all()
