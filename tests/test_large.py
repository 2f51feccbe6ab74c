"""More sites than memory holds: the same training as in memory, over kinds of cubes; interrupted, and asked for what is not there."""

import jax
import numpy as np
import pytest
import xarray as xr

import hybridecosys as he
from hybridecosys.learning import large as large_module
from hybridecosys.learning.batches import make_training_data
from hybridecosys.learning.large import LargeCube, store_lanes
from hybridecosys.model.bucket import bucket


@pytest.fixture(scope="module")
def cube():
    return he.synthetic_cube(n_sites=7, years=3, spinup="none")


def without(cube, name, sites):
    """The cube whose `sites` (positions) have no value of `name`."""
    return cube.assign({name: cube[name].where(~cube.site.isin(cube.site[sites]))})


def shorter(cube):
    """The first three sites begin a year later, and the last has two years less."""
    late, day = cube.time < cube.time[400], xr.DataArray(np.arange(7), dims="site")
    hidden = (late & (day < 3)) | ((cube.time >= cube.time[380]) & (day == 6))
    return cube.map(lambda v: v.where(~hidden) if "time" in v.dims else v, keep_attrs=True)


def young(cube):
    """One site is cleared in its second year."""
    killed = xr.zeros_like(cube.TA_F)
    killed[4, 500] = 0.7
    return cube.assign(disturbance=killed.assign_attrs(units="1"))


KINDS = {
    "plain": lambda c: c,
    "a target at one part only": lambda c: without(without(c, "NEE_VUT_REF", [0, 1, 2]), "GPP_NT_VUT_REF", [3, 4, 5, 6]),
    "a part without observations": lambda c: without(c[[v for v in c if not str(v).startswith(("LE", "ET", "RECO", "NDVI", "agb", "T", "EVI")) or str(v) == "TA_F"]], "GPP_NT_VUT_REF", [0, 1, 2]),
    "records of different length": shorter,
    "a disturbance in one part": young,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [3, 7])
def test_lanes_of_a_store_are_those_of_memory(cube, tmp_path, kind, at_once):
    given = KINDS[kind](cube)
    given.chunk(site=2, time=-1).to_zarr(tmp_path / "cells.zarr", consolidated=False)
    sites = he.prepare(given)
    seen = sites.observed(["gpp"] if "without" in kind else None)
    mine = make_training_data(sites.best_years(2, seen), seen, packed=False)
    stored = store_lanes(LargeCube(xr.open_zarr(tmp_path / "cells.zarr", consolidated=False), tmp_path / "lanes", at_once), ["bioclim"], list(seen.data_vars), (), 2, {}, progress=False)
    rows = np.array([6, 0, 3, 3])
    there, here = stored.take(rows), mine.take(rows)
    assert jax.tree.structure(there) == jax.tree.structure(here)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, there, here)))


def test_a_training_from_a_store_is_the_same_and_goes_on_after_an_interruption(cube, tmp_path, monkeypatch):
    options = {"epochs": 2, "max_years": 1, "batch_size": 3, "progress": False, "targets": ["gpp", "evapotranspiration"]}
    known = he.HybridModel(bucket(), features=["koppen", "bioclim"], spinup="none").fit(cube, **options)
    read, write, stop = [], large_module._write_part, True

    def part(folder, first, *more):
        if stop and first == 4:
            raise KeyboardInterrupt
        read.append(first)
        return write(folder, first, *more)

    monkeypatch.setattr(large_module, "_write_part", part)
    hybrid, large = he.HybridModel(bucket(), features=["koppen", "bioclim"], spinup="none"), LargeCube(cube, tmp_path / "lanes", 2)
    with pytest.raises(KeyboardInterrupt):
        hybrid.fit(large, **options)
    assert read == [0, 2]
    stop = False
    hybrid.fit(large, **options)
    assert read == [0, 2, 4, 6]  # and nothing twice
    assert hybrid.losses.equals(known.losses) and hybrid.predict_parameters(cube).identical(known.predict_parameters(cube))
    hybrid.fit(large, **options)
    assert read == [0, 2, 4, 6]


def test_one_set_for_all_sites_and_a_run_directory(cube, tmp_path):
    options = {"max_years": 1, "batch_size": 4, "progress": False, "targets": ["gpp"]}
    known = he.HybridModel(bucket(), features=[], spinup="none").fit(cube, epochs=2, **options)
    large = LargeCube(cube, tmp_path / "lanes", 3)
    he.HybridModel(bucket(), features=[], spinup="none").fit(large, epochs=2, run_dir=tmp_path / "run", **options)
    again = he.HybridModel(bucket(), features=[], spinup="none").fit(large, epochs=2, run_dir=tmp_path / "run", resume=True, **options)
    assert again.losses.equals(known.losses)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda c, p: LargeCube("cells.zarr", p), "a cube is an xarray.Dataset, not str"),
        (lambda c, p: LargeCube(c, p, 0), "needs at_once >= 1, not 0"),
        (lambda c, p: LargeCube(c.isel(site=0, drop=True), p), "needs the dimension site"),
        (lambda c, p: store_lanes(LargeCube(c, p), [], ["gppp"], (), 1, {}), "'gppp' is unknown"),
        (lambda c, p: store_lanes(LargeCube(c, p), [], None, (), 0, {}), "give max_years"),
        (lambda c, p: store_lanes(LargeCube(c.assign(TA_F=c.TA_F.where(c.site != c.site[5])), p, 2), [], ["gpp"], (), 1, {}, progress=False), "TA_F|t_air"),
        (lambda c, p: store_lanes(LargeCube(c.assign(GPP_NT_VUT_REF=c.GPP_NT_VUT_REF * np.nan), p, 2), [], ["gpp"], (), 1, {}, progress=False), "target gpp"),
    ],
)
def test_what_cannot_be_is_said(cube, tmp_path, wrong, words):
    with pytest.raises((TypeError, ValueError), match=words):
        wrong(cube, tmp_path / "lanes")
