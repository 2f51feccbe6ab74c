"""Paths as people write them, files known by their content, and stores that were copied in part."""

import shutil
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import xarray as xr
from cubes import DAYS, small_cube

import hybridecosys as he
from hybridecosys.cli import main
from hybridecosys.data.choices import as_path
from hybridecosys.data.cube import open_cube, validate_cube
from hybridecosys.data.files import holder, locked, used, write_table
from hybridecosys.data.fluxnet import read_site_info, sample_path
from hybridecosys.data.sources import read_source, recognise
from hybridecosys.study.folds import make_folds, read_folds
from hybridecosys.learning.hybrid import HybridModel
from hybridecosys.learning.predictor import run_directory

ODD = "a b ä#%20é [1] q?x=1"


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A home directory of its own."
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def cube():
    return validate_cube(small_cube(DAYS[:400]))


def test_readers_and_writers_know_the_home_directory(home, cube):
    name = sample_path().name
    (home / name).write_bytes(sample_path().read_bytes())
    (home / "bif.csv").write_text("SITE_ID,VARIABLE,DATAVALUE\nUS-AR1,LOCATION_LAT,36.4\nUS-AR1,IGBP,GRA\n")
    one = he.read_fluxnet(f"~/{name}", bif="~/bif.csv")
    assert float(one.latitude[0]) == 36.4 and recognise(f"~/{name}") == "fluxnet daily"
    assert read_source(f"~/{name}").sizes == one.sizes and read_site_info("~/bif.csv", "US-AR1")["igbp"] == "GRA"
    (home / "sites.csv").write_text("site,latitude,igbp\nUS-AR1,36.4,GRA\n")
    built = he.build_cube([f"~/{name}"], "~/built.nc", table="~/sites.csv", progress=False)
    xr.testing.assert_allclose(he.open_cube("~/built.nc"), built)
    assert he.export(cube, "~/cube.nc") == home / "cube.nc" and he.export(cube, "~/cube.zarr") == home / "cube.zarr"
    for path in ("~/cube.nc", "~/cube.zarr"):
        xr.testing.assert_allclose(he.open_cube(path)[["TA_F", "GPP_NT_VUT_REF"]], cube[["TA_F", "GPP_NT_VUT_REF"]])
    write_table("~/folds.csv", make_folds(cube, k=3, valid_fraction=0))
    assert len(read_folds("~/folds.csv")) == 9 and (home / "folds.csv").exists()
    with locked("~/run"), run_directory("~/other", False) as other:
        assert holder("~/run") == "this process" and other == home / "other"
    assert (home / "run").is_dir() and not used("~/run") and not Path("~").exists()
    with pytest.raises(FileNotFoundError, match=str(home / "none")):
        HybridModel.load("~/none")


@pytest.mark.parametrize("args", [["simulate", "--cube=~/none.nc"], ["train", "--cube", "~/none.nc"], ["evaluate", "--run=~/none.nc"], ["report", "~/none.nc"],
                                  ["simulate", "--run=~/none.nc"], ["calibrate", "--resume", "--out=~/none.nc"], ["crossval", "--resume", "--out=~/none.nc"],
                                  ["train", "--resume", "--out=~/none.nc"], ["train", "--config", "~/none.nc"]])
def test_commands_know_the_home_directory(args, home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    assert main(args) in (1, 2)
    assert str(home / "none.nc") in capsys.readouterr().err and not any(home.iterdir())


@pytest.mark.parametrize("flavour", ["NETCDF4", "NETCDF3_64BIT", "NETCDF3_CLASSIC"])
def test_any_netcdf_by_path_and_by_url_whatever_its_name(flavour, tmp_path, cube):
    folder = tmp_path / ODD
    folder.mkdir()
    for name in ("cube.nc", "cube"):
        file = folder / name
        cube.to_netcdf(file, format=flavour, engine="h5netcdf" if flavour == "NETCDF4" else "scipy")
        for path in (file, str(file), file.as_uri(), f"file://{file}", f"file://localhost{file}"):
            xr.testing.assert_allclose(open_cube(path), cube)
            assert as_path(path) == file
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *args: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    for name in ("cube.nc", "cube"):
        xr.testing.assert_allclose(open_cube(f"http://127.0.0.1:{server.server_port}/{name}"), cube)
    server.shutdown()


@pytest.mark.parametrize("content, said", [(b"<html>404</html>", "HTML"), (b"", "empty"), (b"PK\x03\x04", "a zip"), (b"\x1f\x8b\x08", "gzip")])
def test_a_file_that_is_no_netcdf_is_called_what_it_is(content, said, tmp_path):
    (tmp_path / "cube.nc").write_bytes(content)
    with pytest.raises(ValueError, match=f"cube.nc: .*{said}"):
        open_cube(tmp_path / "cube.nc")
    with pytest.raises(ValueError, match="a folder that is no Zarr store; build_cube"):
        open_cube(tmp_path)


@pytest.fixture(scope="module", params=[2, 3])
def store(request, tmp_path_factory, cube):
    "A store of one file for each site and about a year."
    path = tmp_path_factory.mktemp("stores") / f"v{request.param}.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr, about texts in its third version
        cube.chunk(site=1, time=200).to_zarr(path, zarr_format=request.param)
    return path


def copy_without(store: Path, folder: Path, array: str, *indices: str) -> Path:
    "A copy of a store, some pieces of an array lost."
    copy = shutil.copytree(store, folder / store.name)
    for index in indices:
        (copy / array / (Path("c", *index.split(".")) if (copy / "zarr.json").exists() else index)).unlink()
    return copy


@pytest.mark.parametrize("array, pieces, said", [("TA_F", ["1.1"], "TA_F, 1 .first at site XX-Bbb to XX-Bbb, time 2003-07-20 to 2004-02-04"),
                                                 ("FAPAR", ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"], "FAPAR, 6 .first at site XX-Aaa"), ("sand", ["2"], "sand, 1 .*XX-Ccc")])
def test_a_store_that_lost_pieces_says_so(store, array, pieces, said, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "pieces of the store")
        open_cube(store)
    with pytest.warns(UserWarning, match=f"v. ?.zarr: pieces of the store are absent .*{said}".replace(" ?", "")):
        open_cube(copy_without(store, tmp_path, array, *pieces))


@pytest.mark.parametrize("label", ["site", "time"])
def test_a_store_without_its_labels_is_refused(store, label, tmp_path):
    with pytest.raises(ValueError, match=f"labels '{label}' are absent"):
        open_cube(copy_without(store, tmp_path, label, "0"))


def test_pieces_that_hold_nothing_need_not_be_there(tmp_path, cube):
    "Outside a site's record there is nothing, and zarr writes no file for it."
    late = cube.assign({v: cube[v].where((cube.time >= cube.time[200]) | (cube.site != "XX-Bbb")) for v in cube if "time" in cube[v].dims})
    late.chunk(site=1, time=200).to_zarr(tmp_path / "late.zarr", zarr_format=2)
    assert not (tmp_path / "late.zarr" / "TA_F" / "1.0").exists()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "pieces of the store")
        open_cube(tmp_path / "late.zarr")
