"""PLUMBER2, CalLMIP, FluxDataKit: files of their layout read as half-hourly FLUXNET files are, and files that must be refused."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridecosys.data.alma import open_alma, read_alma, write_plumber2
from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.data.halfhourly import made_up_halfhours, read_halfhourly
from hybridecosys.data.observations import observations


@pytest.fixture(scope="module")
def table():
    return made_up_halfhours(days=20)


@pytest.fixture(scope="module")
def fluxnet(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("hh") / "FLX_XX-Aaa_FLUXNET2015_FULLSET_HH_2005-2005_1-3.csv"
    table.to_csv(path, index=False)
    return read_halfhourly(path, transpiration=True)


def flux_of(met):
    return met.with_name(met.name.replace("_Met", "_Flux"))


def change(path, edit, **options):
    """The file rewritten after `edit`."""
    ds = edit(xr.load_dataset(path))
    ds.to_netcdf(path, **{"engine": "h5netcdf"} | options)
    return path


@pytest.mark.parametrize("humidity", ["VPD", "Qair"])
def test_days_equal_those_of_the_fluxnet_layout(tmp_path, table, fluxnet, humidity):
    days = read_alma(write_plumber2(table, tmp_path, humidity=humidity), transpiration=True)
    compared = set(days.data_vars) & set(fluxnet.data_vars)
    assert {"TA_F", "P_F", "VPD_F_DAY", "TA_F_MAX", "NETRAD", "LE_F_MDS", "NEE_VUT_REF", "NEE_VUT_REF_QC", "T"} <= compared
    for name in compared:
        np.testing.assert_allclose(days[name], fluxnet[name], rtol=2e-4, atol=2e-4, err_msg=name)
    assert days.attrs["source"] == "XX-Aaa_2005-2005_FLUXNET2015_Met.nc, XX-Aaa_2005-2005_FLUXNET2015_Flux.nc"
    forcing = prepare_forcing(days.assign(sand=("site", [0.4], {"units": "1"}), clay=("site", [0.2], {"units": "1"})))
    np.testing.assert_allclose(forcing.vpd_day, days.VPD_F_DAY / 10)


def test_site_attributes_are_the_files_unless_given(tmp_path, table):
    met = write_plumber2(table, tmp_path, site="AU-Xyz")
    days = read_alma(met, elevation=5.0)
    assert (days.site.item(), days.igbp.item(), days.elevation.item(), days.canopy_height.item()) == ("AU-Xyz", "DBF", 5.0, 30.0)
    assert days.latitude.attrs["units"] == "degrees_north"
    change(met, lambda ds: ds.drop_attrs(deep=False))  # without site_code the name tells
    assert read_alma(met).site.item() == "AU-Xyz"


def test_classic_netcdf_as_r_writes_it(tmp_path, table):
    met = write_plumber2(table, tmp_path)
    plain = read_alma(met)
    for path in (met, flux_of(met)):
        change(path, lambda ds: ds, engine="scipy", format="NETCDF3_CLASSIC")
    assert met.read_bytes()[:3] == b"CDF"
    xr.testing.assert_identical(read_alma(met), plain)


def test_end_stamps_hours_relative_humidity_rain_and_snow(tmp_path, table):
    met = write_plumber2(table, tmp_path)
    plain = read_alma(met)

    def other(ds):
        ds["Rainf"], ds["Snowf"] = ds.Precip * 0.75, ds.Precip * 0.25
        ds["Rainf"].attrs = ds["Snowf"].attrs = {"units": "kg m-2 s-1"}
        return ds.drop_vars("Precip").assign_coords(time=ds.time + np.timedelta64(30, "m"))

    change(met, other)
    change(flux_of(met), lambda ds: ds.assign_coords(time=ds.time + np.timedelta64(30, "m")))
    xr.testing.assert_allclose(read_alma(met, stamp="end"), plain)
    assert int(read_alma(met).P_F.isnull().sum()) == 2  # first and last day are not whole


def test_callmip_daily_fluxes_with_uncertainty(tmp_path, table):
    """The layout of DK-Sor_daily_aggregated_..._Flux.nc: NEE in gC m-2 d-1, one good day in two, fill value 1e20."""
    met = write_plumber2(table, tmp_path, site="DK-Xor")
    flux_of(met).unlink()
    days = pd.date_range("2005-06-03", periods=30)
    nee = np.where(np.arange(30) % 2 == 0, np.linspace(-5, 2, 30), np.nan).astype("f4")
    ds = xr.Dataset({"NEE_daily": ("time", nee, {"units": "gC/m2/d"}), "NEE_uc_daily": ("time", 0.1 * abs(nee), {"units": "gC/m2/d"}),
                     "Qle_daily": ("time", nee * 0 + 60, {"units": "W/m2"}), "latitude": ("x", [55.5]), "longitude": ("x", [11.6])},
                    coords={"time": days}, attrs={"site_code": "DK-Xor"})  # fmt: skip
    flux = tmp_path / "DK-Xor_daily_aggregated_2005-2005_FLUXNET2015_Flux.nc"
    ds.to_netcdf(flux, encoding={v: {"_FillValue": 1e20} for v in ("NEE_daily", "NEE_uc_daily", "Qle_daily")}, engine="h5netcdf")
    with pytest.warns(UserWarning, match="12 of its 30 days have no weather and are left out, first 2005-06-21"):
        got = read_alma(met, flux)
    np.testing.assert_array_equal(got.NEE_VUT_REF.sel(time=days[:18])[0], nee[:18])
    np.testing.assert_allclose(got.NEE_VUT_REF_UNC.sel(time=days[:18])[0], 0.1 * abs(nee[:18]))
    seen = observations(got)
    assert seen.nee.attrs["quality_filter"].startswith("none") and float(seen.evapotranspiration.max()) == pytest.approx(60 * 0.0864 / 2.45)
    with pytest.raises(ValueError, match="it holds the fluxes"):
        read_alma(flux)


BAD = {
    "no unit": (lambda ds: ds.Tair.attrs.pop("units") and ds, "Tair: no unit"),
    "carbon in kg": (lambda ds: ds, "NEE: unit 'kg/m2/s' .*expected 'gC m-2 d-1'|NEE: unit 'kg m-2 s-1'"),
    "no humidity": (lambda ds: ds.drop_vars("VPD"), "no humidity; VPD, Qair and Psurf, or RH"),
    "no rain": (lambda ds: ds.drop_vars("Precip"), "no Precip or Rainf"),
    "no radiation": (lambda ds: ds.drop_vars("SWdown"), "no SWdown"),
    "two points": (lambda ds: xr.concat([ds, ds.assign_coords(x=[2.0])], "x", data_vars="all"), "dimension x has 2 entries"),
    "daily": (lambda ds: ds.isel(time=slice(None, None, 48)), "its time step is 0 days 00:30:00, that of the weather 1 days"),
    "a time twice": (lambda ds: ds.isel(time=[0, 1, 1, *range(2, ds.sizes["time"])]), "the time 2005-06-01 00:30:00 is not after the one before it, 2005-06-01 00:30:00"),
    "two times turned": (lambda ds: ds.isel(time=[0, 2, 1, *range(3, ds.sizes["time"])]), "the time 2005-06-01 00:30:00 is not after the one before it, 2005-06-01 01:00:00"),
    "times that are numbers": (lambda ds: ds.assign_coords(time=np.arange(ds.sizes["time"])), "time is not dates but int64"),
    "an undeclared mark": (lambda ds: ds.assign(SWdown=ds.SWdown.where(ds.time != ds.time[5], -999.0)), "SW_IN_F: -999 W m-2 is below -50 at site XX-Aaa on 2005-06-01 02:30 .*a mark of"),
    "celsius called K": (lambda ds: ds.assign(Tair=(ds.Tair - 273.15).assign_attrs(units="K")), "TA_F: .*degC is below -90 at site XX-Aaa on 2005-06-01"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_by_name(tmp_path, table, case):
    edit, message = BAD[case]
    met = change(write_plumber2(table, tmp_path), edit)
    if case == "carbon in kg":
        change(flux_of(met), lambda ds: ds.assign(NEE=ds.NEE.assign_attrs(units="kg/m2/s")))
    with pytest.raises(ValueError, match=message) as error:
        read_alma(met)
    assert met.name in str(error.value)


def test_dates_without_29_february(tmp_path, table):
    met = write_plumber2(table, tmp_path)
    plain = read_alma(met)
    for path in (met, flux_of(met)):
        change(path, lambda ds: ds.convert_calendar("noleap"))
    xr.testing.assert_identical(read_alma(met), plain)
    change(met, lambda ds: ds.convert_calendar("360_day", align_on="date"))
    with pytest.raises(ValueError, match="_Met.nc: time is not dates but of the calendar 360_day"):
        read_alma(met)


def test_fluxes_of_other_times(tmp_path, table):
    """Of another step they are refused; what has no weather is left out, and told."""
    met = write_plumber2(table, tmp_path)
    plain = read_alma(met)
    change(flux_of(met), lambda ds: ds.isel(time=slice(96, None)).assign_coords(time=ds.time[96:] + np.timedelta64(10, "D")))
    with pytest.warns(UserWarning, match="_Flux.nc: 480 of its 864 times have no weather and are left out, first 2005-06-21"):
        late = read_alma(met)
    np.testing.assert_allclose(late.LE_F_MDS[0, 12:], plain.LE_F_MDS[0, 2:10])
    change(flux_of(met), lambda ds: ds.isel(time=slice(None, None, 2)))
    with pytest.raises(ValueError, match="_Flux.nc: its time step is 0 days 01:00:00, that of the weather 0 days 00:30:00"):
        read_alma(met)


def test_other_files_are_refused(tmp_path, table):
    met = write_plumber2(table, tmp_path)
    other = write_plumber2(table, tmp_path, site="XX-Bbb")
    with pytest.raises(ValueError, match="is of site XX-Bbb, .* of XX-Aaa"):
        read_alma(met, flux_of(other))
    with pytest.raises(FileNotFoundError, match="no ALMA file at"):
        read_alma(tmp_path / "none_Met.nc")
    (tmp_path / "broken_Met.nc").write_bytes(met.read_bytes()[:900])
    with pytest.raises(ValueError, match="broken_Met.nc: not a readable NetCDF file, or truncated"):
        open_alma(tmp_path / "broken_Met.nc")
    with pytest.raises(ValueError, match='stamp=\'middle\'; one of "start", "end"'):
        read_alma(met, stamp="middle")


def test_fluxdatakit_half_hours(tmp_path, table, fluxnet):
    """Its CSV has temperature, radiation and VPD under other names."""
    path = tmp_path / "FLX_XX-Aaa_PLUMBER_FULLSET_HH_2005_2005_2-3.csv"
    table.rename(columns={v: f"{v}_MDS" for v in ("TA_F", "SW_IN_F", "VPD_F")}).drop(columns=["NIGHT", "SW_IN_POT"]).to_csv(path, index=False)
    days = read_halfhourly(path)
    for name in ("TA_F", "SW_IN_F", "VPD_F_DAY", "GPP_NT_VUT_REF", "P_F"):
        np.testing.assert_allclose(days[name], fluxnet[name], err_msg=name)
