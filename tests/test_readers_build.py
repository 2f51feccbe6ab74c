"""Data recognised by content, many files at once, and a cube of sites of mixed origin: resumable, reported, with features from maps."""

import gzip
import os
import zipfile

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import hybridecosys.data.build as build
from hybridecosys.data.alma import write_plumber2
from hybridecosys.data.build import at_sites, build_cube, coverage, find_sources, plot_coverage, with_table
from hybridecosys.data.cube import is_leap_day, open_cube
from hybridecosys.data.fluxnet import SAMPLE_ATTRIBUTES, read_fluxnet, sample_path, sample_site
from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.data.halfhourly import made_up_halfhours, read_halfhourly
from hybridecosys.data.sources import SOURCES, join_sites, read_many, read_source, recognise
from hybridecosys.data.stores import from_sindbad, made_up_sindbad, write_zarr_fluxnet2015

HH = "FLX_XX-Aaa_FLUXNET2015_FULLSET_HH_2005-2005_1-3.csv"
PLACES = pd.DataFrame({"latitude": [36.43, 50.0], "longitude": [-99.42, 9.0], "igbp": ["GRA", "DBF"], "elevation": [611, 100]}, index=["US-AR1", "XX-Aaa"])


@pytest.fixture(scope="module")
def table():
    return made_up_halfhours(days=10)


@pytest.fixture
def folder(tmp_path, table):
    """What a user has: a daily file, a half-hourly one, a site of PLUMBER2, and files that are no data."""
    data = tmp_path / "data"
    (data / "deeper").mkdir(parents=True)
    (data / sample_path().name).write_bytes(sample_path().read_bytes())
    table.to_csv(data / "deeper" / HH, index=False)
    write_plumber2(table, data, site="XX-Bbb")
    (data / "BIF_README.txt").write_text("read me")
    (data / "FLX_XX-Aaa_FLUXNET2015_FULLSET_MM_2005-2005_1-3.csv").write_text("TIMESTAMP\n200501\n")
    return data


def test_each_kind_is_recognised_under_any_name(tmp_path, table):
    csv = table.to_csv(index=False)
    (tmp_path / "a").write_text(csv)
    (tmp_path / "b").write_bytes(gzip.compress(csv.encode()))
    (tmp_path / "c").write_text("\ufeff" + sample_path().read_text())
    (tmp_path / "d").write_text("TIMESTAMP,P_F,TA_F_MDS,SW_IN_F_MDS,VPD_F_MDS\n2002-01-01,1,3,50,2\n")
    with zipfile.ZipFile(tmp_path / "e", "w") as z:
        z.writestr(HH, csv)
    with zipfile.ZipFile(tmp_path / "f", "w") as z:
        z.writestr(HH, csv)
        z.write(sample_path(), sample_path().name)
    write_plumber2(table, tmp_path).rename(tmp_path / "g")
    made_up_sindbad(days=20).to_zarr(tmp_path / "h", zarr_format=2)
    sample_site().to_netcdf(tmp_path / "i", engine="h5netcdf")
    write_zarr_fluxnet2015(table, tmp_path / "j", {"DE-Xxx": 10.0})
    kinds = ["fluxnet half-hourly"] * 2 + ["fluxnet daily", "fluxdatakit", "fluxnet half-hourly", "fluxnet daily", "alma", "sindbad", "cube", "zarr-fluxnet2015"]
    assert [recognise(tmp_path / n) for n in "abcdefghij"] == kinds and set(kinds) == set(SOURCES.index)


NOT_DATA = {
    "letter.txt": (b"dear colleague\n", "not recognised, a table with the columns dear colleague"),
    "empty.csv": (b"", "the file is empty"),
    "picture.csv": (b"\x89PNG\r\n\x1a\n\xff\xfe\xfd", "not recognised, neither a table nor NetCDF, Zarr or zip"),
    "BIF.csv": (b"SITE_ID,GROUP_ID,VARIABLE_GROUP,VARIABLE,DATAVALUE\n", "site information .*give it as bif="),
}


@pytest.mark.parametrize("name", NOT_DATA)
def test_other_files_are_refused_by_name(tmp_path, name):
    content, message = NOT_DATA[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: .*{message}|{name}: {message}"):
        recognise(tmp_path / name)


def test_stores_that_are_nothing_known_are_refused(tmp_path):
    xr.Dataset({"sst": (("lat", "lon"), np.zeros((2, 2)))}).to_netcdf(tmp_path / "sea.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="sea.nc: not recognised; it has the variables sst on lat, lon"):
        recognise(tmp_path / "sea.nc")
    with pytest.raises(FileNotFoundError, match="no data at"):
        recognise(tmp_path / "none")
    with pytest.raises(ValueError, match="a folder; give the files in it"):
        recognise(tmp_path)
    with pytest.raises(TypeError, match="cube has no option least"):
        sample_site().to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
        read_source(tmp_path / "c.nc", least=0.5)


def test_many_files_equal_each_alone(tmp_path, table, folder):
    files = [folder / sample_path().name, folder / "deeper" / HH, folder / "XX-Bbb_2005-2005_FLUXNET2015_Met.nc"]
    for workers in (1, 3):
        many = read_many(files, workers=workers, progress=False)
        assert many.site.values.tolist() == ["US-AR1", "XX-Aaa", "XX-Bbb"] and many.source.values.tolist() == [f.name for f in files]
        for file, site in zip(files, many.site.values):
            alone = read_source(file)
            for name in alone.data_vars:
                if "time" in alone[name].dims:
                    np.testing.assert_array_equal(many[name].sel(site=site, time=alone.time), alone[name][0], err_msg=name)
    assert pd.DatetimeIndex(many.time.values).equals(pd.date_range("2005-06-01", "2011-12-31"))
    assert many.TA_F.sel(site="XX-Aaa").count() == 10
    with pytest.raises(ValueError, match=f"site XX-Aaa comes twice, in {HH} and in {HH}"):
        read_many([files[1], files[1]], progress=False)
    with pytest.raises(ValueError, match="no file to read"):
        read_many([])


def test_progress_is_shown_unless_told_otherwise(tmp_path, folder, capsys):
    for progress, shown in ((True, True), (False, False)):
        read_many([sample_path(), folder / "deeper" / HH], progress=progress)
        build_cube(folder, table=PLACES, progress=progress)
        said = capsys.readouterr().err
        assert ("files: 100%" in said and "2/2" in said, "sources: 100%" in said and "3/3" in said) == (shown, shown)


def test_what_lies_in_a_folder_beside_the_data_is_left_out_with_its_reason(tmp_path, table):
    """An unpacked archive of ICOS, and FULLSET beside SUBSET."""
    names = {"ICOSETC_DE-Xxx_FLUXNET_DD_L2.csv": None, "ICOSETC_DE-Xxx_FLUXNET_HH_L2.csv": "daily file is there", "ICOSETC_DE-Xxx_METEO_L2.csv": "without gap-filling",
             "ICOSETC_DE-Xxx_FLUXES_L2.csv": "without gap-filling", "ICOSETC_DE-Xxx_SITEINFO_L2.csv": "site information", "ICOSETC_DE-Xxx_VARINFO_FLUXNET_DD_L2.csv": "auxiliary",
             "FLX_DE-Yyy_FLUXNET2015_FULLSET_DD_2000-2001_1-3.csv": None, "FLX_DE-Yyy_FLUXNET2015_SUBSET_DD_2000-2001_1-3.csv": "FULLSET file is there",
             "FLX_DE-Yyy_FLUXNET2015_ERAI_DD_1989-2014_1-3.csv": "reanalysis", "FLX_DE-Yyy_FLUXNET2015_AUXNEE_2000-2001_1-3.csv": "auxiliary"}  # fmt: skip
    for name in names:
        (tmp_path / name).write_text("TIMESTAMP\n")
    found, left = find_sources(tmp_path)
    assert {p.name for p in found} == {n for n, reason in names.items() if reason is None}
    assert all(reason in left[n] for n, reason in names.items() if reason)


def test_joined_sites_have_no_hole_in_the_dates_and_forcing_can_be_made():
    one = sample_site()
    late = one.assign_coords(site=["XX-Zzz"], time=one.time + np.timedelta64(365 * 10, "D"))
    both = join_sites([one, late], ["a", "b"])
    assert both.sizes == {"site": 2, "time": 730 + 3650}
    with pytest.warns(UserWarning):
        forcing = prepare_forcing(both)
    days = [int((~is_leap_day(pd.DatetimeIndex(c.time.values))).sum()) for c in (one, late)]
    assert forcing.t_air.notnull().sum("time").values.tolist() == days


def test_build_from_a_folder(tmp_path, folder):
    cube = build_cube(folder, tmp_path / "cube.nc", table=PLACES, progress=False)
    xr.testing.assert_equal(open_cube(tmp_path / "cube.nc"), cube)
    assert sorted(cube.site.values) == ["US-AR1", "XX-Aaa", "XX-Bbb"] and cube.elevation.sel(site="XX-Bbb") == 430
    report = pd.read_csv(tmp_path / "cube_coverage.csv").set_index("source")
    assert report.loc[HH, "days"] == 10 and report.loc["BIF_README.txt", "left out because"] == "not a data file"
    assert report.loc["XX-Bbb_2005-2005_FLUXNET2015_Flux.nc", "left out because"].startswith("fluxes, read with its weather")
    assert (tmp_path / "cube_coverage.png").stat().st_size > 1000
    left = find_sources(folder)[1]
    assert "monthly" in left["FLX_XX-Aaa_FLUXNET2015_FULLSET_MM_2005-2005_1-3.csv"]


def test_build_to_zarr_equals_netcdf(tmp_path, folder):
    for name in ("c.nc", "c.zarr"):
        build_cube(folder, tmp_path / name, table=PLACES, progress=False)
    xr.testing.assert_equal(open_cube(tmp_path / "c.zarr"), open_cube(tmp_path / "c.nc"))


def test_build_is_resumed(tmp_path, folder, monkeypatch):
    """Cut off at the last source, it reads only that one when started again; a source that changed is read anew."""
    sources = [folder / sample_path().name, folder / "deeper" / HH, folder / "XX-Bbb_2005-2005_FLUXNET2015_Met.nc"]
    read, real = [], build.read_source

    def spy(path, **options):
        if "XX-Bbb" in str(path) and not read.count("again"):
            raise KeyboardInterrupt
        read.append(os.path.basename(path))
        return real(path, **options)

    monkeypatch.setattr(build, "read_source", spy)
    with pytest.raises(KeyboardInterrupt):
        build_cube(sources, tmp_path / "cube.nc", table=PLACES, workers=1, progress=False)
    assert read == [sources[0].name, HH] and not (tmp_path / "cube.nc").exists()
    os.utime(sources[1], (1e9, 1e9))
    read[:] = ["again"]
    cube = build_cube(sources, tmp_path / "cube.nc", table=PLACES, workers=1, progress=False)
    assert read == ["again", HH, sources[2].name]
    monkeypatch.undo()
    xr.testing.assert_identical(cube, build_cube(sources, table=PLACES, progress=False))


def test_build_refuses_before_reading(tmp_path, folder):
    with pytest.raises(TypeError, match="no reader has an option leest; attributes of sites are given as table="):
        build_cube(folder, leest=0.5)
    with pytest.raises(ValueError, match="must end in .nc or .zarr"):
        build_cube(folder, tmp_path / "cube.csv")
    (tmp_path / "cube.nc").write_text("")
    with pytest.raises(FileExistsError, match="overwrite=True builds it anew"):
        build_cube(folder, tmp_path / "cube.nc")
    with pytest.raises(ValueError, match="on_error must be one of raise, skip"):
        build_cube(folder, on_error="ignore")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no data in"):
        build_cube(tmp_path / "nothing")


def test_a_broken_source_stops_or_is_left_out_with_its_reason(tmp_path, folder):
    (folder / "FLX_XX-Ccc_FLUXNET2015_FULLSET_DD_2005-2005_1-3.csv").write_text("TIMESTAMP,TA_F\n20050101,3\n")
    with pytest.raises(ValueError, match="FLX_XX-Ccc.*missing column"):
        build_cube(folder, progress=False)
    with pytest.warns(UserWarning, match="1 of 4 sources left out: FLX_XX-Ccc.*missing column"):
        build_cube(folder, tmp_path / "c.nc", on_error="skip", table=PLACES, progress=False)
    report = pd.read_csv(tmp_path / "c_coverage.csv").set_index("source")["left out because"]
    assert "missing column" in report["FLX_XX-Ccc_FLUXNET2015_FULLSET_DD_2005-2005_1-3.csv"]
    with pytest.warns(UserWarning) as said:
        build_cube(folder, on_error="skip", progress=False)
    assert any("no latitude or IGBP class at US-AR1, XX-Aaa: open_cube refuses" in str(w.message) for w in said)


def test_options_go_to_the_readers_that_have_them(folder):
    cube = build_cube(folder, table=PLACES, transpiration=True, progress=False)
    assert cube["T"].sel(site="XX-Aaa").notnull().any() and cube["T"].sel(site="US-AR1").isnull().all() and "estimate" in cube["T"].attrs["long_name"]


def test_coverage_counts_good_days():
    site = sample_site()
    row = coverage(site).loc["US-AR1"]
    good = (site.NEE_VUT_REF.notnull() & (site.NEE_VUT_REF_QC >= 0.85)).sum().item()
    assert row["days"] == 730 and row["nee"] == good and row["first"] == "2010-01-01" and row["missing attributes"] == "sand, clay"
    assert len(plot_coverage(site).axes) >= 3


def grid(step=10.0, east=False):
    lat, lon = np.arange(85, -90, -step), np.arange(5, 360, step) if east else np.arange(-175, 180, step)
    value = lat[:, None] * 1000 + (np.where(lon > 180, lon - 360, lon) if east else lon)[None]
    return xr.Dataset({"code": (("lat", "lon"), value)}, coords={"lat": lat, "lon": lon})


@pytest.mark.parametrize("east", [False, True])
def test_maps_give_the_nearest_cell(east):
    cube = sample_site().merge(xr.Dataset())  # 36.4 N, 99.4 W
    assert at_sites(grid(east=east), cube).code.item() == 35 * 1000 - 95
    flipped = grid(east=east).isel(lat=slice(None, None, -1)).rename(lat="latitude", lon="longitude")
    assert at_sites(flipped, cube).code.item() == 35 * 1000 - 95


def test_maps_with_dates_units_and_sites_outside():
    cube = sample_site()
    days = pd.date_range("2010-01-05", periods=20, freq="8D")
    green = xr.Dataset({"FAPAR": (("time", "lat", "lon"), np.full((20, 3, 3), 45.0), {"units": "%"})},
                       coords={"time": days, "lat": [35.0, 36, 37], "lon": [-101.0, -100, -99]})  # fmt: skip
    got = at_sites(green, cube).FAPAR
    assert got.dims == ("site", "time") and int(got.notnull().sum()) == 20 and float(got.sel(time=days[3]).item()) == pytest.approx(0.45)
    with pytest.warns(UserWarning, match="within one cell's width of US-AR1"):
        assert at_sites(green.assign_coords(lon=[9.0, 10, 11]), cube).FAPAR.isnull().all()
    with pytest.raises(ValueError, match="FAPAR: no unit"):
        at_sites(green.assign(FAPAR=green.FAPAR.drop_attrs()), cube)
    with pytest.raises(ValueError, match="no dimension of latitude"):
        at_sites(xr.Dataset({"a": ("cell", [1.0])}), cube)
    with pytest.raises(ValueError, match="another dimension, depth"):
        at_sites(grid().expand_dims(depth=[1, 2]), cube)
    with pytest.raises(ValueError, match="the cube has no latitude"):
        at_sites(grid(), cube.drop_vars("latitude"))


def test_table_of_sites():
    cube = sample_site()
    got = with_table(cube, pd.DataFrame({"igbp": [None], "sand": [0.3]}, index=["US-AR1"]))
    assert got.igbp.item() == "GRA" and got.sand.attrs["units"] == "1"
    with pytest.raises(ValueError, match="none of the sites of the cube"):
        with_table(cube, pd.DataFrame({"sand": [0.3]}, index=["DE-Hai"]))
    with pytest.raises(ValueError, match="DE-Hai comes twice"):
        with_table(cube, pd.DataFrame({"sand": [0.3, 0.4]}, index=["DE-Hai", "DE-Hai"]))
    assert SAMPLE_ATTRIBUTES["igbp"] == "GRA"


SITES = {
    "as the docstring has it": "site,latitude,igbp,elevation,sand_2\nUS-AR1,36.4,GRA,,0.5\nNA-Foo,1,DBF,2,0.1\n",
    "of a spreadsheet": "\ufeffSITE_ID;Latitude;IGBP;Elev;sand_2\nUS-AR1;36,4;GRA;-9999;0,5\n",
    "in Latin-1, with a name in words": "Site,LAT,IGBP,elevation,sand_2,name\nUS-AR1,36.4,GRA,NA,0.5,Préfecture\n",
}


@pytest.mark.parametrize("form", SITES)
def test_table_of_sites_as_it_circulates(tmp_path, form):
    (tmp_path / "sites.csv").write_bytes(SITES[form].encode("latin-1" if "Latin" in form else "utf-8"))
    got = with_table(sample_site().drop_vars("elevation"), tmp_path / "sites.csv")
    assert (got.latitude.item(), got.igbp.item(), got.sand_2.item()) == (36.4, "GRA", 0.5) and got.latitude.attrs["units"] == "degrees_north"
    assert "elevation" in got and got.elevation.isnull().all()


def test_a_misspelled_column_of_the_table_is_answered(tmp_path):
    with pytest.raises(ValueError, match="site attribute 'elevaton' unknown; did you mean 'elevation'"):
        build_cube([sample_path()], table=pd.DataFrame({"elevaton": [611]}, index=["US-AR1"]), progress=False)


def test_open_cube_knows_the_other_layouts(tmp_path, table):
    made_up_sindbad().to_zarr(tmp_path / "sindbad.zarr", zarr_format=2)
    xr.testing.assert_equal(open_cube(tmp_path / "sindbad.zarr"), from_sindbad(made_up_sindbad()))
    met = write_plumber2(table, tmp_path)
    xr.testing.assert_equal(open_cube(met), read_source(met))
    write_zarr_fluxnet2015(table, tmp_path / "z.zarr", {"DE-Xxx": 10.0})
    with pytest.raises(ValueError, match=r"z.zarr: this is zarr-fluxnet2015.*use read_zarr_fluxnet2015"):
        open_cube(tmp_path / "z.zarr")
    with pytest.raises(ValueError, match="it holds the fluxes, give the file of the weather"):
        open_cube(met.with_name(met.name.replace("_Met", "_Flux")))
    table.to_csv(tmp_path / HH, index=False)
    with pytest.raises(ValueError, match=f"{HH}: a table or zip, no cube; read_fluxnet reads such a file"):
        open_cube(tmp_path / HH)


def test_values_out_of_range_are_treated_as_asked_in_every_layout(tmp_path, table):
    hot = table.assign(TA_F=table.TA_F.where(table.index // 48 != 3, 70.0))
    hot.to_csv(tmp_path / HH, index=False)
    met = write_plumber2(hot, tmp_path)
    cube = made_up_sindbad(days=400)
    cube["TA_ERAIv2_gfld"][0, 3] = 70.0
    cube.to_zarr(tmp_path / "s.zarr", zarr_format=2)
    for path in (tmp_path / HH, met, tmp_path / "s.zarr"):
        with pytest.raises(ValueError, match="TA_F: 70 degC is above 6[05] at site"):
            read_source(path)
        with pytest.warns(UserWarning, match="TA_F"):
            assert bool(read_source(path, out_of_range="missing").TA_F[0, 3].isnull())


def test_read_fluxnet_takes_half_hours_plumber2_and_lists(tmp_path, table, folder):
    hh, met = folder / "deeper" / HH, folder / "XX-Bbb_2005-2005_FLUXNET2015_Met.nc"
    xr.testing.assert_identical(read_fluxnet(hh, latitude=50.0, transpiration=True), read_halfhourly(hh, latitude=50.0, transpiration=True))
    xr.testing.assert_identical(read_fluxnet(met), read_source(met))
    with zipfile.ZipFile(tmp_path / "AMF_XX-Aaa_FLUXNET_FULLSET_2005-2005_3-5.zip", "w") as z:
        z.writestr("AMF_XX-Aaa_FLUXNET_ERA5_DD_1981-2021_3-5.csv", "TIMESTAMP,TA_ERA\n20050601,3\n")
        z.write(hh, HH)
    xr.testing.assert_equal(read_fluxnet(tmp_path / "AMF_XX-Aaa_FLUXNET_FULLSET_2005-2005_3-5.zip"), read_fluxnet(hh))
    many = read_fluxnet([folder / sample_path().name, hh, met], progress=False, latitude={"US-AR1": 36.4, "XX-Aaa": 50.0})
    assert many.site.values.tolist() == ["US-AR1", "XX-Aaa", "XX-Bbb"] and many.latitude.values.tolist() == [36.4, 50.0, 51.0]


def test_read_fluxnet_refuses_options_of_half_hours_for_a_daily_file(folder):
    with pytest.raises(TypeError, match="_DD_.*: least, transpiration can be asked of half-hourly and hourly files, this is none"):
        read_fluxnet(folder / sample_path().name, transpiration=True, least=0.5)
    with pytest.raises(ValueError, match="a monthly FLUXNET file"):
        read_fluxnet(folder / "FLX_XX-Aaa_FLUXNET2015_FULLSET_MM_2005-2005_1-3.csv")
