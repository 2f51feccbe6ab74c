"""Made-up sites: plants live at every one, those that live are never drawn again, a seed gives one cube."""

import numpy as np
import pytest
import xarray as xr

import hybridecosys as he
from hybridecosys.data.weather import CLIMATES, draw_sites, synthetic_weather
from hybridecosys.model import twin
from hybridecosys.model.simulate import simulate
from hybridecosys.model.twin import LIVING, living_sites, true_parameters

N = len(CLIMATES)
MODEL = he.wroasted().for_training()


def simulated(cube: xr.Dataset, truth: xr.DataArray) -> np.ndarray:
    run = simulate(MODEL, he.prepare_forcing(cube), {str(p): truth.sel(parameter=p) for p in truth.parameter.values}, outputs=list(twin.OBSERVED))
    return run.gpp.mean("time").values


@pytest.mark.parametrize("seed", range(5))
def test_plants_live_at_every_site_and_living_sites_stay(seed):
    cube, truth, run = living_sites(N, 1, seed, MODEL, "accelerated")
    assert (run.gpp.mean("time") >= LIVING).all()
    assert list(cube.site.values) == list(run.site.values)
    xr.testing.assert_identical(truth, true_parameters(MODEL, cube, seed))  # a redrawn site's follow from its properties, as everywhere
    first = synthetic_weather(N, 1, seed)
    again = (cube.TA_F != first.TA_F).any("time").values
    np.testing.assert_array_equal(again, simulated(first, true_parameters(MODEL, first, seed)) < LIVING)
    xr.testing.assert_equal(cube.isel(site=~again), first.isel(site=~again))
    if seed == 2:
        assert again.any()


def test_a_seed_gives_one_cube():
    one, same = (he.synthetic_cube(N, 1, seed=2) for _ in range(2))
    xr.testing.assert_identical(one, same)
    assert set(one.drop_dims("parameter")) == set(he.synthetic_cube(N, 1, seed=2, spinup="none").drop_dims("parameter"))


def test_another_draw_is_one_of_site_and_try():
    one, two = draw_sites([12], 1, seed=2, again=1), draw_sites([12, 3], 1, seed=2, again=1)
    xr.testing.assert_equal(one, two.isel(site=[0]))
    assert not np.allclose(one.TA_F, draw_sites([12], 1, seed=2, again=2).TA_F)
    xr.testing.assert_equal(draw_sites([12], 1, seed=2), synthetic_weather(13, 1, seed=2).isel(site=[12]))


def test_a_site_where_nothing_grows_is_named(monkeypatch):
    monkeypatch.setattr(twin, "LIVING", 1e3)
    monkeypatch.setattr(twin, "TRIES", 1)
    with pytest.raises(ValueError, match="nothing grows at site SY-001 of seed 2, though it was drawn 2 times, with the parameters of"):
        living_sites(N, 1, 2, MODEL, "accelerated")


def test_without_spin_up_all_sites_stay():
    assert (he.synthetic_cube(2 * N, 1, seed=2, spinup="none").TA_F == synthetic_weather(2 * N, 1, seed=2).TA_F).all()
