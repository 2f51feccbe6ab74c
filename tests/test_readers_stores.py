"""The cube of SINDBAD with its covariates, and zarr-fluxnet2015 from a local server of the same layout."""

import functools
import http.server
import threading

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.data.halfhourly import made_up_halfhours, steps_dataset, to_days
from hybridecosys.data.observations import observations
from hybridecosys.data.stores import (
    from_sindbad,
    made_up_sindbad,
    read_zarr_fluxnet2015,
    sindbad_covariates,
    write_zarr_fluxnet2015,
)


@pytest.fixture(scope="module")
def sindbad():
    return made_up_sindbad()


def covariates(sites=("US-Whs", "DE-Hai", "XX-Zzz")):
    rows = {"KG": [7.0, 10, 1], "PFT": [7.0, 4, 99], "bio1_nor": [0.1, 0.2, 0.3], "sand": [1.0, 2, 3], "nor_clay": [-1.0, -2, -3]}
    return xr.Dataset({"layer": (("features", "site"), list(rows.values()))}, coords={"features": list(rows), "site": list(sites)})


def test_sindbad_units_and_targets(sindbad):
    cube = from_sindbad(sindbad)
    source = {"TA_F": ("TA_ERAIv2_gfld", 1), "SW_IN_F": ("SW_IN_ERAIv2_gfld", 1 / 0.0864), "VPD_F_DAY": ("VPD_DayTime_ERAIv2_gfld", 0.01),
              "NETRAD": ("NETRAD_ERAIv2_gfld", 1 / 0.0864), "P_F": ("P_ERAIv2_gfld", 1), "LE_F_MDS": ("LE", 1 / 0.0864)}  # fmt: skip
    for name, (other, factor) in source.items():
        np.testing.assert_allclose(cube[name], sindbad[other] * factor, rtol=1e-12, err_msg=name)
    seen = observations(cube)
    assert {"gpp", "nee", "reco", "evapotranspiration", "transpiration", "ndvi", "agb"} == set(seen.data_vars)
    leap = pd.DatetimeIndex(sindbad.time.values)
    leap = ~((leap.month == 2) & (leap.day == 29))
    np.testing.assert_allclose(seen.evapotranspiration, (sindbad.LE / 2.45).values[:, leap])  # SINDBAD's own factor, 0.408
    assert cube.sand.values.tolist() == [0.4, 0.4] and cube.clay.values.tolist() == [0.25, 0.25] and seen.agb.values.tolist() == [8000.0] * 2
    assert "TEA" in cube["T"].attrs["long_name"]


def test_sindbad_forcing_is_all_given(sindbad):
    forcing = prepare_forcing(from_sindbad(sindbad, elevation=100.0))
    np.testing.assert_allclose(forcing.vpd_day[0, :10], sindbad.VPD_DayTime_ERAIv2_gfld[0, :10] / 1000)
    np.testing.assert_allclose(forcing.rn[0, :10], sindbad.NETRAD_ERAIv2_gfld[0, :10])
    assert int(forcing.derived_days.sum()) == 0 and int(forcing.interpolated_days.sum()) == 0


def test_sindbad_disturbance_and_stand_age(sindbad):
    struck = sindbad.copy(deep=True)
    struck.dist_frac_sb2018[0, 200] = 1.0
    cube = from_sindbad(struck)
    assert float(cube.disturbance[0, 200]) == 1 and float(prepare_forcing(cube).disturbance.sum()) == 1
    assert cube.undisturbed.values.tolist() == [1, 0] and np.isnan(cube.stand_age_site[0])
    assert float(cube.stand_age_site[1]) == pytest.approx((pd.Timestamp("2004-01-01") - pd.Timestamp("1980-05-01")).days / 365.25)


def test_sindbad_older_names_bytes_and_one_value_for_all(tmp_path, sindbad):
    """Dimension Ti, noon stamps, an attribute given once, through a Zarr store."""
    odd = sindbad.assign_coords(time=sindbad.time + np.timedelta64(12, "h")).rename(time="Ti").assign_attrs(PFT="MOS")
    odd.to_zarr(tmp_path / "cube.zarr", zarr_format=2)
    cube = from_sindbad(xr.open_zarr(tmp_path / "cube.zarr", chunks=None))
    assert cube.igbp.values.tolist() == ["CVM", "CVM"] and cube.site.values.tolist() == ["DE-Hai", "US-Whs"]
    xr.testing.assert_equal(cube.drop_vars("igbp"), from_sindbad(sindbad).drop_vars("igbp"))


def test_sindbad_covariates_join_by_site(sindbad):
    cube = from_sindbad(sindbad, covariates())
    assert cube.koppen.values.tolist() == ["Cfb", "BWh"] and cube.igbp_covariates.values.tolist() == ["DBF", "OSH"]
    assert cube.bio1_nor.values.tolist() == [0.2, 0.1] and cube.nor_clay.values.tolist() == [-2, -1] and float(cube.sand[0]) == 0.4
    assert sindbad_covariates(covariates()).igbp_covariates.values[2] == "unknown"
    with pytest.raises(ValueError, match="no array with dimensions features and site"):
        sindbad_covariates(sindbad)


BAD = {
    "no product": (lambda ds: ds.drop_vars("TA_ERAIv2_gfld"), {}, "0 weather products"),
    "two products": (lambda ds: ds.assign(TA_CRUJRA_gfld=ds.TA_ERAIv2_gfld), {}, r"2 weather products \(CRUJRA_gfld, ERAIv2_gfld\); choose one"),
    "unknown product": (lambda ds: ds, {"product": "GSWP3"}, "product='GSWP3'; the cube has ERAIv2_gfld"),
    "no rain": (lambda ds: ds.drop_vars("P_ERAIv2_gfld"), {}, "missing variable P_F"),
    "no latitude": (lambda ds: ds.assign_attrs(latitude=""), {}, "missing variable latitude"),
    "three latitudes for two sites": (lambda ds: ds.assign_attrs(latitude=[1.0, 2, 3]), {}, "latitude has 3 entries for 2 sites"),
    "VPD in hPa": (lambda ds: ds.assign(VPD_ERAIv2_gfld=ds.VPD_ERAIv2_gfld * -1), {}, "VPD_F: .* hPa is below 0 at site DE-Hai"),
}


@pytest.mark.parametrize("case", BAD)
def test_sindbad_refused_by_name(sindbad, case):
    change, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        from_sindbad(change(sindbad), **options)


@pytest.fixture(scope="module")
def table():
    return made_up_halfhours(days=15)


@pytest.fixture(scope="module")
def server(table, tmp_path_factory):
    """A store of the layout of zarr-fluxnet2015, served over HTTP."""
    folder = tmp_path_factory.mktemp("web")
    write_zarr_fluxnet2015(table, folder / "fluxnet.zarr", {"US-Xaz": -110.0, "DE-Xxx": 10.0, "AU-Xxx": 150.0})

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/fluxnet.zarr"
    server.shutdown()
    server.server_close()


def test_zarr_fluxnet2015_over_http(server, table):
    """Each site's days are those of its own time, east and west of Greenwich."""
    with pytest.warns(UserWarning, match="no precipitation"):
        got = read_zarr_fluxnet2015(server, ["US-Xaz", "AU-Xxx", "DE-Xxx"], progress=False)
    days = to_days(steps_dataset(table, "XX-Xxx"))
    assert got.site.values.tolist() == ["US-Xaz", "AU-Xxx", "DE-Xxx"] and got.sizes["time"] == 15
    for name, close in (("TA_F", 1e-3), ("SW_IN_F", 0.02), ("VPD_F_DAY", 1e-3), ("TA_F_MAX", 1e-3), ("NEE_VUT_REF", 2e-3), ("NEE_VUT_REF_QC", 1e-6)):
        np.testing.assert_allclose(got[name], np.broadcast_to(days[name].values, (3, 15)), atol=close, err_msg=name)
    assert got.latitude.attrs["units"] == "degrees_north" and seen_targets(got) == {"gpp", "nee"}


def seen_targets(cube):
    return set(observations(cube).data_vars)


def test_zarr_fluxnet2015_with_rain_is_a_cube(server, table):
    rain = to_days(steps_dataset(table, "DE-Xxx")).P_F
    cube = read_zarr_fluxnet2015(server, "DE-Xxx", precipitation=rain, progress=False, igbp="DBF", elevation=100.0, sand=0.4, clay=0.2)
    np.testing.assert_allclose(prepare_forcing(cube).precip, rain)


def test_zarr_fluxnet2015_hourly_sites_and_given_offset(tmp_path, table):
    """Each hour stands twice in the store, the first one beginning at 0:30; days are still those of whole hours."""
    columns = table.columns.drop(["TIMESTAMP_START", "TIMESTAMP_END"])
    hours = table[columns].groupby(np.arange(len(table)) // 2).mean()
    halves = pd.concat([table[["TIMESTAMP_START", "TIMESTAMP_END"]], hours.loc[np.arange(len(table)) // 2].reset_index(drop=True)], axis=1)
    twice = halves.copy()
    twice[columns] = halves[columns].shift(1)  # stamps are ends: 1:00 and 1:30 hold the hour to 1:00
    write_zarr_fluxnet2015(twice.iloc[1:], tmp_path / "fluxnet.zarr", {"US-Xaz": -110.0})
    with pytest.warns(UserWarning):
        got = read_zarr_fluxnet2015(tmp_path / "fluxnet.zarr", ["US-Xaz"], progress=False)
        late = read_zarr_fluxnet2015(tmp_path / "fluxnet.zarr", ["US-Xaz"], utc_offset={"US-Xaz": -6}, progress=False, least=0.9)
    days = to_days(steps_dataset(table, "US-Xaz"))
    np.testing.assert_allclose(got.TA_F[0, :14], days.TA_F[0, :14], atol=1e-3)
    assert not np.allclose(late.TA_F[0, 1:13], days.TA_F[0, 1:13], atol=1e-3)


def test_sindbad_words_that_are_none_are_told(sindbad):
    with pytest.warns(UserWarning) as said:
        cube = from_sindbad(sindbad.assign_attrs(PFT=["XYZ", "OSH"], last_disturbance_on=["undisturbed", "about 1980"]))
    said = " ".join(str(w.message) for w in said)
    assert "PFT 'XYZ' at DE-Hai is no class" in said and "last_disturbance_on 'about 1980' is no date" in said
    assert cube.igbp.values.tolist() == ["unknown", "OSH"] and np.isnan(cube.stand_age_site).all() and cube.undisturbed.values.tolist() == [1, 0]


@pytest.mark.parametrize("order, message", [([1, 0], "the time .* is not after the one before it"), ([0, 0], "the time .* is not after the one before it")])
def test_zarr_fluxnet2015_times_are_checked(server, order, message):
    """Two stamps that are turned would move the whole record by half an hour."""
    store = xr.open_zarr(server, chunks=None).load()
    store = store.isel(time=[*order, *range(2, store.sizes["time"])])
    with pytest.raises(ValueError, match=f"site DE-Xxx: {message}"):
        read_zarr_fluxnet2015(store, ["DE-Xxx"], progress=False)


def test_zarr_fluxnet2015_an_undeclared_mark_is_refused(server):
    store = xr.open_zarr(server, chunks=None).load()
    store["ta"] = store.ta.where(store.time != store.time[200], -999.0).assign_attrs(units="degC")
    with pytest.raises(ValueError, match="TA_F: -999 degC is below -90 at site DE-Xxx on 2005-06-0. .*a mark of missing values"):
        read_zarr_fluxnet2015(store, ["DE-Xxx"], progress=False)


def test_zarr_fluxnet2015_refused_by_name(server, sindbad):
    with pytest.raises(ValueError, match="site XX-No1 is not in the store"):
        read_zarr_fluxnet2015(server, ["DE-Xxx", "XX-No1"], progress=False)
    with pytest.raises(ValueError, match="none chosen, of 3: "):
        read_zarr_fluxnet2015(server, progress=False)
    with pytest.raises(ValueError, match="not zarr-fluxnet2015: it has TA_ERAIv2_gfld"):
        read_zarr_fluxnet2015(sindbad, ["DE-Hai"])
    away = xr.open_zarr(server, chunks=None).load()
    away["longitude"] = away.longitude + 80
    with pytest.raises(ValueError, match="site DE-Xxx: its record begins at .* UTC, which is no midnight at longitude 90.0; give utc_offset"):
        read_zarr_fluxnet2015(away, ["DE-Xxx"], progress=False)
