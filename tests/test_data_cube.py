"""Cubes that must be refused, and the message that names the culprit."""

import functools
import http.server
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cubes import DAYS, put, small_cube

from hybridecosys.data.cube import VARIABLES, open_cube, real_data_path, validate_cube

BAD = {
    "missing variable": (lambda d: d.drop_vars("P_F"), r"missing variable P_F"),
    "missing latitude": (lambda d: d.drop_vars("latitude"), r"missing variable latitude"),
    "missing igbp": (lambda d: d.drop_vars("igbp"), r"missing variable igbp"),
    "no unit": (lambda d: d.assign(TA_F=d.TA_F.drop_attrs()), r"TA_F: no unit.*expected 'degC'"),
    "unknown unit": (lambda d: d.assign(TA_F=d.TA_F.assign_attrs(units="degX")), r"TA_F: unknown unit 'degX'.*'degC'"),
    "wrong quantity": (lambda d: d.assign(SW_IN_F=d.SW_IN_F.assign_attrs(units="mm d-1")), r"SW_IN_F: unit 'mm d-1'"),
    "kelvin called degC": (lambda d: d.assign(TA_F=(d.TA_F + 273).assign_attrs(units="degC")), r"TA_F: .* above 60"),
    "negative VPD": (lambda d: put(d, "VPD_F", -0.2), r"VPD_F: -0.2 hPa is below 0 at site XX-Bbb on 2003-02-10"),
    "negative rain": (lambda d: put(d, "P_F", -1.0), r"P_F: -1 mm d-1 is below 0 at site XX-Bbb on 2003-02-10"),
    "missing-value code": (lambda d: put(d, "TA_F", -9999.0), r"TA_F: -9999 degC is below -80"),
    "extremes swapped": (
        lambda d: put(d.assign(TA_F_MIN=d.TA_F - 5, TA_F_MAX=d.TA_F + 5), "TA_F_MIN", 40.0).pipe(
            lambda d: d.assign({v: d[v].assign_attrs(units="degC") for v in ("TA_F_MIN", "TA_F_MAX")})
        ),
        r"TA_F_MIN: 40 degC is above TA_F_MAX.*site XX-Bbb on 2003-02-10",
    ),
    "infinite": (lambda d: put(d, "SW_IN_F", np.inf), r"SW_IN_F: inf"),
    "duplicate date": (lambda d: d.isel(time=[0, 1, 1, 2]), r"duplicate dates.*2003-01-02"),
    "unsorted dates": (lambda d: d.isel(time=[0, 2, 1, 3]), r"unsorted dates, 2003-01-02 comes after 2003-01-03"),
    "hole": (lambda d: d.isel(time=np.r_[0:10, 15:30]), r"hole of 5 days.*2003-01-11 to 2003-01-15"),
    "two holes": (lambda d: d.isel(time=np.r_[0:10, 12:30, 31:40]), r"hole of 3 days.*2003-01-11 to 2003-01-12"),
    "hole after 28 February": (lambda d: d.sel(time=d.time != np.datetime64("2004-03-01")), r"hole.*2004-03-01"),
    "monthly": (lambda d: d.resample(time="MS").mean(), r"hole of .* days"),
    "unknown IGBP": (lambda d: d.assign(igbp=("site", ["DBF", "FOREST", "GRA"])), r"site XX-Bbb: igbp 'FOREST'"),
    "sand and clay": (
        lambda d: d.assign(sand=("site", [0.4, 0.9, 0.4], {"units": "1"})),
        r"sand \+ clay = 1.100 .*XX-Bbb",
    ),
    "latitude NaN": (
        lambda d: d.assign(latitude=("site", [50, np.nan, 50.0], {"units": "degrees_north"})),
        "latitude.*XX-Bbb",
    ),
    "site twice": (lambda d: d.assign_coords(site=["XX-Aaa", "XX-Aaa", "XX-Ccc"]), r"site XX-Aaa occurs twice"),
    "no site dimension": (lambda d: d.isel(site=0), r"no dimension 'site'"),
    "text for numbers": (lambda d: d.assign(P_F=d.P_F.astype(str).assign_attrs(units="mm d-1")), r"P_F: not numbers"),
    "no dates": (lambda d: d.assign_coords(time=np.arange(d.sizes["time"])), r"time is not dates"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_cube_is_refused_and_named(case):
    change, message = BAD[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        bad = change(small_cube())
    with pytest.raises(ValueError, match=message):
        validate_cube(bad)


def test_good_cube_passes_and_keeps_its_values():
    raw = small_cube()
    good = validate_cube(raw)
    for name in raw.data_vars:
        assert (good[name].values == raw[name].values).all()


def test_units_are_converted_not_assumed():
    raw = small_cube()
    other = raw.assign(
        TA_F=(raw.TA_F + 273.15).assign_attrs(units="K"),
        VPD_F=(raw.VPD_F / 10).assign_attrs(units="kPa"),
        SW_IN_F=(raw.SW_IN_F * 0.0864).assign_attrs(units="MJ m-2 d-1"),
        P_F=(raw.P_F / 86400).assign_attrs(units="kg m-2 s-1"),
        sand=(raw.sand * 100).assign_attrs(units="percent"),
    )
    good = validate_cube(other)
    for name in ("TA_F", "VPD_F", "SW_IN_F", "P_F", "sand"):
        np.testing.assert_allclose(good[name], raw[name], rtol=1e-12, atol=1e-12)
        assert good[name].attrs["units"] == VARIABLES.unit[name]


def test_29_february_may_be_absent_and_noleap_calendars_are_read():
    raw = small_cube()
    noleap = raw.convert_calendar("noleap")
    good = validate_cube(noleap)
    assert good.sizes["time"] == len(DAYS) - 1 and isinstance(good.get_index("time"), pd.DatetimeIndex)
    assert validate_cube(raw).sizes["time"] == len(DAYS)


def test_other_order_of_dimensions_and_extra_variables_are_kept():
    raw = small_cube().transpose("time", "site").assign(slope=("site", [1.0, 2.0, 3.0]))
    good = validate_cube(raw)
    assert good.TA_F.dims == ("site", "time") and list(good.slope.values) == [1, 2, 3]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_truncated_netcdf(tmp_path, share, engine):
    if engine == "netcdf4":
        pytest.importorskip("netCDF4", reason="netCDF4 is a package of development")
    path = tmp_path / "cube.nc"
    small_cube().to_netcdf(path, engine=engine)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match="cube.nc: not a readable NetCDF file, or truncated"):
        open_cube(path)


def test_files_that_are_not_there_or_not_netcdf(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.nc"):
        open_cube(tmp_path / "gone.nc")
    (tmp_path / "text.nc").write_text("site,time\n")
    with pytest.raises(ValueError, match="text.nc: not a readable NetCDF"):
        open_cube(tmp_path / "text.nc")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(ValueError, match="empty.zarr: not a readable Zarr store"):
        open_cube(tmp_path / "empty.zarr")


def test_invalid_content_names_the_file(tmp_path):
    path = tmp_path / "bad.nc"
    put(small_cube(), "P_F", -1.0).to_netcdf(path)
    with pytest.raises(ValueError, match="bad.nc: P_F: -1 mm d-1"):
        open_cube(path)


@pytest.fixture
def served(tmp_path):
    """(folder, URL) of a local web server."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *args: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_netcdf_from_a_url(served):
    folder, url = served
    small_cube().to_netcdf(folder / "cube.nc")
    xr.testing.assert_allclose(open_cube(f"{url}/cube.nc"), validate_cube(small_cube()))
    with pytest.raises(ValueError, match="nothing.nc.*404"):
        open_cube(f"{url}/nothing.nc")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_from_disk_and_from_a_url(served, zarr_format):
    folder, url = served
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small_cube().to_zarr(folder / "cube.zarr", zarr_format=zarr_format, consolidated=True)
        here = open_cube(folder / "cube.zarr")
        pytest.importorskip("aiohttp", reason="Zarr over HTTP needs aiohttp (pip install 'fsspec[http]')")
        there = open_cube(f"{url}/cube.zarr")
    xr.testing.assert_allclose(here, validate_cube(small_cube()))
    xr.testing.assert_allclose(there, here)


def test_real_data_path_follows_the_environment(tmp_path, monkeypatch):
    (tmp_path / "fluxnet").mkdir()
    monkeypatch.setenv("HYBRIDECOSYS_DATA", str(tmp_path))
    assert real_data_path() is None
    (tmp_path / "fluxnet" / "fluxnet2015_daily.nc").write_bytes(b"")
    assert real_data_path() == tmp_path / "fluxnet" / "fluxnet2015_daily.nc"


@pytest.mark.skipif(real_data_path() is None, reason="the real cube (fluxnet/fluxnet2015_daily.nc) is not here")
def test_real_cube_is_valid():
    real = open_cube(real_data_path())
    assert real.sizes["site"] == 109 and set(VARIABLES.index[VARIABLES.kind == "required"]) <= set(real.data_vars)


@pytest.mark.parametrize("thing", [small_cube(DAYS[:40]).TA_F, small_cube(DAYS[:40]).TA_F.to_dataframe(), "cube.nc", None])
def test_what_is_no_dataset_is_called_what_it_is(thing):
    with pytest.raises(TypeError, match=f"a cube is an xarray.Dataset, not {type(thing).__name__}"):
        validate_cube(thing)


def test_yes_or_no_is_no_amount_and_a_site_needs_a_name():
    cube = small_cube(DAYS[:40])
    with pytest.raises(ValueError, match="P_F: not numbers but bool"):
        validate_cube(cube.assign(P_F=(cube.P_F > 0).assign_attrs(units="mm d-1")))
    with pytest.raises(ValueError, match="site number 1 has no name"):
        validate_cube(cube.assign_coords(site=["A", " ", "B"]))


def test_a_file_is_let_go_of_once_it_is_read(tmp_path):
    """So it can be written back under its name; and what has taken its place is read, not what was there before."""
    path = tmp_path / "cube.nc"
    small_cube().to_netcdf(path)
    first = open_cube(path)
    warmer = first.assign(TA_F=(first.TA_F + 1).assign_attrs(first.TA_F.attrs))
    warmer.to_netcdf(path)
    np.testing.assert_allclose(open_cube(path).TA_F - first.TA_F, 1, atol=1e-4)
    small_cube().to_netcdf(tmp_path / "new.nc")
    (tmp_path / "new.nc").replace(path)
    np.testing.assert_allclose(open_cube(path).TA_F, first.TA_F)
