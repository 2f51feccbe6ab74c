"""A grid in tiles: the same as its cells as sites, here and on a cluster; interrupted and resumed; ocean; and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.data.weather import synthetic_weather
from hybridecosys.learning.hybrid import HybridModel
from hybridecosys.learning.network import NetworkOptions
from hybridecosys.model import grid
from hybridecosys.model.grid import ATTRIBUTES_OF_A_CELL, TILES, cells_to_sites, simulate_grid, sites_to_cells
from hybridecosys.model.simulate import simulate
from hybridecosys.model.structure import FORCING, wroasted

MODEL, OUTPUTS = wroasted(), ["gpp", "soil_old"]
COORDS = {"lat": [52.0, 51.5, 51.0, 50.5], "lon": [4.0, 4.5, 5.0, 5.5, 6.0]}
LAND = xr.DataArray(np.add.outer(np.arange(4), np.arange(5)) > 2, COORDS)  # 14 of 20
OPTIONS = dict(spinup="none", outputs=OUTPUTS, progress=False, lanes=4)


@pytest.fixture(scope="module")
def cube():
    sites = synthetic_weather(int(LAND.sum()), years=1)
    like = xr.Dataset({"t_air": (("time", "lat", "lon"), np.zeros((1, 4, 5)))}, COORDS)
    return sites.assign_coords(site=cells_to_sites(like, LAND).site)


@pytest.fixture(scope="module")
def forcing(cube):
    like = xr.Dataset({"t_air": (("time", "lat", "lon"), np.zeros((1, 4, 5)))}, COORDS)
    sites = prepare_forcing(cube)[[*(n for n in FORCING if n != "disturbance"), *ATTRIBUTES_OF_A_CELL]]
    cells = sites_to_cells(sites.isel(time=slice(0, 40)), like, LAND)
    return cells.assign({n: cells[n].astype("float32") for n in FORCING if n in cells})


@pytest.fixture(scope="module")
def as_sites(forcing):
    return simulate(MODEL, cells_to_sites(forcing, LAND), spinup="none", outputs=OUTPUTS)


def check(result, as_sites):
    for name in OUTPUTS:
        assert result[name].dims == ("time", "lat", "lon") and result[name].dtype == "float32" and result[name].attrs == as_sites[name].attrs
        here = cells_to_sites(result[[name]], LAND)[name]
        np.testing.assert_allclose(here, as_sites[name].transpose(*here.dims), rtol=1e-5, atol=1e-6)
        assert bool(result[name].where(~LAND).isnull().all())


def files(store):
    return {p.relative_to(store): p.read_bytes() for p in Path(store).rglob("*") if p.is_file() and p.name != ".lock"}  # which names the second


def test_tiles_give_what_sites_give(forcing, as_sites, tmp_path):
    """Whatever the tiles, the order of dimensions, and whether the ocean is known by a mask or by its weather; CO2 may be the same everywhere."""
    result = simulate_grid(MODEL, forcing, tmp_path / "a", tile={"lat": 2, "lon": 2}, **OPTIONS)
    check(result, as_sites)
    assert result.time.equals(forcing.time) and result.lat.attrs["units"] == "degrees_north" and result.attrs["spinup"] == "none"
    assert not list((tmp_path / "a/gpp/c/0/0").glob("0")), "a chunk without land has been written"
    turned = forcing.transpose("lon", "time", "lat").chunk(lon=3, lat=4)
    full = turned.assign({n: turned[n].fillna(0.3) for n in ("sand", "clay", "tree_fraction", "vegetation_fraction")})
    full["plant_form"] = full.plant_form.where(LAND, "tree")
    turned = simulate_grid(MODEL, full, tmp_path / "b", **OPTIONS).transpose("time", "lat", "lon")
    check(turned, as_sites)
    same = forcing.assign(co2=forcing.co2.max(["lat", "lon"]).assign_attrs(units="ppm"))
    masked = simulate_grid(MODEL, same, tmp_path / "c", mask=LAND, **OPTIONS)
    flat = cells_to_sites(same, LAND)
    np.testing.assert_allclose(cells_to_sites(masked[["gpp"]], LAND).gpp, simulate(MODEL, flat, spinup="none", outputs="gpp").gpp.transpose("site", "time"), rtol=1e-5, atol=1e-6)


def test_what_files_of_climate_models_carry_beside_it(forcing, as_sites, tmp_path):
    """Bounds of days and cells, a coordinate system, another daily variable and dates of a calendar without leap days: no cell comes twice, and the run is the same."""
    days = forcing.time.values
    more = forcing.assign(time_bnds=(("time", "bnds"), np.stack([days, days + np.timedelta64(1, "D")], 1)), lat_bnds=(("lat", "bnds"), np.zeros((4, 2))), spatial_ref=0,
                          quantile=(("time", "member"), np.zeros((len(days), 3))))
    more = more.assign_coords(time=xr.date_range(str(days[0])[:10], periods=len(days), calendar="noleap", use_cftime=True))
    for given in (more, more.set_coords(["time_bnds", "spatial_ref"])):
        assert list(cells_to_sites(given, LAND).site.values) == list(cells_to_sites(forcing, LAND).site.values)
    result = simulate_grid(MODEL, more, tmp_path / "a", tile={"lat": 2, "lon": 2}, mask=LAND, **OPTIONS)
    check(result, as_sites)
    assert result.time.equals(forcing.time)


@pytest.fixture(scope="module")
def green(forcing):
    """The forcing with observed greenness, a season of its own at each cell."""
    day = xr.DataArray(np.arange(forcing.sizes["time"]), {"time": forcing.time})
    series = (0.4 + 0.3 * np.sin(day / 20) * forcing.sand).where(LAND).transpose("time", "lat", "lon").astype("float32")
    return forcing.assign(greenness=series.assign_attrs(units="1", spinup="season"))


def test_observed_greenness_drives_the_cells(green, as_sites, tmp_path):
    model = wroasted(greenness="observed")
    result = simulate_grid(model, green.chunk(lat=2, lon=5), tmp_path / "a", **OPTIONS)
    sites = simulate(model, cells_to_sites(green, LAND), spinup="none", outputs=OUTPUTS)
    check(result, sites)
    assert not np.allclose(sites.gpp, as_sites.gpp, rtol=0.05)
    with pytest.raises(ValueError, match="forcing lacks greenness"):
        simulate_grid(model, green.drop_vars("greenness"), tmp_path / "b", **OPTIONS)
    with pytest.raises(ValueError, match="greenness must be in 1"):
        simulate_grid(model, green.assign(greenness=green.greenness.assign_attrs(units="percent")), tmp_path / "b", **OPTIONS)
    with pytest.raises(ValueError, match="lat=51 lon=6: greenness is NaN on"):
        simulate_grid(model, green.assign(greenness=green.greenness.where((green.lat != 51) | (green.lon != 6) | (green.time < green.time[7])).assign_attrs(green.greenness.attrs)),
                      tmp_path / "b", **OPTIONS)


def test_an_interrupted_run_resumes_to_the_same_store(forcing, tmp_path, monkeypatch):
    options = {**OPTIONS, "tile": {"lat": 2, "lon": 2}}
    simulate_grid(MODEL, forcing, tmp_path / "whole", **options)
    run_tile, done = grid.run_tile, []

    def stopping(job, number, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(number)
        return run_tile(job, number, *rest)

    monkeypatch.setattr(grid, "run_tile", stopping)
    with pytest.raises(KeyboardInterrupt):
        simulate_grid(MODEL, forcing, tmp_path / "part", **options)
    assert files(tmp_path / "part") != files(tmp_path / "whole")
    again = []
    monkeypatch.setattr(grid, "run_tile", lambda job, number, *rest: again.append(number) or run_tile(job, number, *rest))
    simulate_grid(MODEL, forcing, tmp_path / "part", resume=True, **options)
    assert len(done) == 2 and again and not set(again) & set(done)
    assert files(tmp_path / "part") == files(tmp_path / "whole")
    simulate_grid(MODEL, forcing, tmp_path / "part", resume=True, **options)
    assert len(again) + len(done) == 5, "a finished tile was simulated again, or one without land at all"  # of six, one is ocean


def test_a_cluster_gives_the_same(forcing, as_sites, tmp_path):
    """With data that the workers read, that lie on the cluster, and that lie here."""
    distributed = pytest.importorskip("distributed")
    forcing.chunk(lat=2, lon=3, time=-1).to_zarr(tmp_path / "forcing", zarr_format=3, consolidated=False)
    lazy = xr.open_zarr(tmp_path / "forcing", consolidated=False)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster, distributed.Client(cluster):
        for i, data in enumerate((lazy, lazy.persist(), forcing)):
            check(simulate_grid(MODEL, data, tmp_path / f"on{i}", tile={"lat": 2, "lon": 3}, **OPTIONS), as_sites)
        with pytest.raises(ValueError, match="lat=50.5 lon=6: t_air is NaN on 2001-02-09"):
            simulate_grid(MODEL, hole(forcing), tmp_path / "bad", **OPTIONS)
    check(simulate_grid(MODEL, lazy, tmp_path / "here", **OPTIONS), as_sites)


def test_parameters_of_cells(cube, forcing, tmp_path):
    hybrid = HybridModel(MODEL, ["igbp", "soil"], spinup="none", network=NetworkOptions(hidden=8, layers=1))
    hybrid.learn_features(cube)
    at_sites = hybrid.predict_parameters(cube)
    at_sites["gpp_potential.eps_max"] = ("site", np.linspace(1, 3, 14))
    at_cells = sites_to_cells(at_sites, forcing, LAND)
    result = simulate_grid(hybrid.model, forcing, tmp_path / "a", at_cells, tile={"lat": 3}, **OPTIONS)
    check(result, simulate(hybrid.model, cells_to_sites(forcing, LAND), at_sites, spinup="none", outputs=OUTPUTS))
    with pytest.raises(ValueError, match="the run in .* is another: parameters differ"):
        simulate_grid(hybrid.model, forcing, tmp_path / "a", {"gpp_potential.eps_max": 2.5}, tile={"lat": 3}, resume=True, **OPTIONS)


def hole(forcing):
    t_air = forcing.t_air.copy(deep=True)
    t_air[dict(time=-1, lat=3, lon=4)] = np.nan
    return forcing.assign(t_air=t_air)


def set_cell(forcing, name, value, **at):
    values = forcing[name].copy(deep=True)
    values.loc[at] = value
    return forcing.assign({name: values})


BAD = {
    "hole": (hole, {}, "lat=50.5 lon=6: t_air is NaN on 2001-02-09"),
    "no weather under the mask": (lambda f: f, {"mask": LAND | True}, "lat=52 lon=4: sand is nan"),
    "negative": (lambda f: set_cell(f, "rg", -1, time="2001-01-05", lat=51, lon=6), {}, "lat=51 lon=6: rg is -1.0 MJ m-2 d-1 on 2001-01-05"),
    "sand": (lambda f: set_cell(f, "sand", 1.5, lat=51, lon=6), {}, "lat=51 lon=6: sand is 1.5"),
    "unit": (lambda f: f.assign(rn=f.rn.assign_attrs(units="W m-2")), {}, "rn must be in MJ m-2 d-1"),
    "missing": (lambda f: f.drop_vars(["rn", "clay"]), {}, "forcing lacks rn, clay"),
    "dates": (lambda f: f.isel(time=[0, 1, 3]), {}, "not after 2001-01-02"),
    "dimensions": (lambda f: f.assign(rn=f.rn.isel(lat=0, drop=True)), {}, "rn must have the dimensions time and lat, lon"),
    "mask of another grid": (lambda f: f, {"mask": LAND.assign_coords(lat=LAND.lat + 1)}, "the mask has other lat coordinates"),
    "parameter": (lambda f: f, {"parameters": {"gpp_potential.eps_max": xr.where(LAND.lon == 6, 9.0, 2.0) * xr.ones_like(LAND, float)}},
                  "eps_max is 9.0 gC MJ-1 at site lat=52 lon=6"),
    "parameter without cells": (lambda f: f, {"parameters": {"wue.kappa": np.full(14, 0.4)}}, "wue.kappa: values for each cell must be a DataArray"),
    "tile": (lambda f: f, {"tile": {"x": 3}}, "tile names 'x'"),
    "spinup": (lambda f: f, {"spinup": "reference"}, "only 40 days"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(forcing, case, tmp_path):
    change, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        simulate_grid(MODEL, change(forcing), tmp_path / "a", **{**OPTIONS, **options})
    assert case in ("hole", "negative") or not (tmp_path / "a").exists()


def test_stores_that_exist_and_that_do_not(forcing, tmp_path):
    simulate_grid(MODEL, forcing, tmp_path / "a", **OPTIONS)
    with pytest.raises(FileExistsError):
        simulate_grid(MODEL, forcing, tmp_path / "a", **OPTIONS)
    with pytest.raises(FileNotFoundError, match="no grid run to resume"):
        simulate_grid(MODEL, forcing, tmp_path / "b", resume=True, **OPTIONS)
    with pytest.raises(ValueError, match="outputs differ"):
        simulate_grid(MODEL, forcing, tmp_path / "a", resume=True, **{**OPTIONS, "outputs": ["gpp"]})
    assert (tmp_path / "a" / TILES).is_dir() and TILES not in xr.open_zarr(tmp_path / "a", consolidated=False)
