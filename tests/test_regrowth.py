"""Stands whose age is known: cleared at the end of the spin-up, and grown again."""

import jax
import numpy as np
import pytest
import xarray as xr

import hybridecosys as he
from hybridecosys.data.observations import observations
from hybridecosys.learning.batches import make_training_data
from hybridecosys.learning.cost import total_cost
from hybridecosys.learning.step import site_gradients
from hybridecosys.model.regrowth import OLDEST

AGES = [np.nan, 40.0, 10.0, OLDEST + 1.0]
OUTPUTS = ["gpp", "nee", "aboveground_biomass"]


@pytest.fixture(scope="module")
def cube():
    """One site, four times over."""
    return he.synthetic_cube(n_sites=1, years=2, seed=0).isel(site=[0] * 4).assign_coords(site=["unknown", "40", "10", "old"])


@pytest.fixture(scope="module")
def aged(cube):
    return he.prepare_forcing(cube).assign(stand_age_at_start=("site", AGES, {"units": "yr"}))


@pytest.fixture(scope="module")
def run(aged):
    return he.simulate(he.wroasted(), aged, spinup="accelerated", outputs=OUTPUTS)


def test_younger_stands_hold_less_and_take_up_more(run):
    biomass, nee = run.aboveground_biomass.isel(time=0).values, run.nee.mean("time").values
    assert biomass[2] < biomass[1] < biomass[0] and nee[1] < nee[0] and nee[2] < nee[0]
    assert run.isel(site=3).drop_vars("site").identical(run.isel(site=0).drop_vars("site"))  # older than the oldest: as if it were not known


def test_without_an_age_the_run_is_the_plain_one(cube, run):
    plain = he.simulate(he.wroasted(), he.prepare_forcing(cube), spinup="accelerated", outputs=OUTPUTS)
    for name in OUTPUTS:
        np.testing.assert_allclose(plain[name][0], run[name][0], rtol=1e-4, atol=1e-4)


def test_gradients_are_finite_and_a_clearing_is_felt(cube, aged):
    model = he.wroasted().for_training()
    pool = make_training_data(aged, observations(cube, ["gpp", "nee"]), packed=False)
    learned = {n: np.full(4, model.parameter_table[n].default, np.float32) for n in model.learned}
    costs, slopes = jax.jit(lambda p: site_gradients(model, p, pool.inputs, pool.observed, "accelerated", {}))(learned)
    assert np.isfinite(total_cost(costs)).all() and all(np.isfinite(v).all() for v in slopes.values())
    wood = slopes["turnover.wood_scale"]
    assert wood[0] != wood[2] and (np.abs(wood) > 0).all()


@pytest.mark.parametrize("change, options, words", [
    (lambda f: f, dict(spinup="none"), "spinup='none' has none"),
    (lambda f: f.assign(stand_age_at_start=f.stand_age_at_start - 20), {}, "site 10: stand_age_at_start is -10 yr"),
])
def test_what_cannot_be_is_refused(aged, change, options, words):
    with pytest.raises(ValueError, match=words):
        he.simulate(he.wroasted(), change(aged), **{"spinup": "accelerated", "outputs": ["gpp"], **options})


def test_a_model_that_nothing_can_clear():
    forcing = he.prepare_forcing(he.synthetic_cube(n_sites=1, years=2, spinup="none"))
    with pytest.raises(ValueError, match="needs a model with a process that reads disturbance"):
        he.simulate(he.bucket(), forcing.assign(stand_age_at_start=("site", [5.0], {"units": "yr"})), spinup="accelerated")


def test_a_cube_says_when(cube):
    """The age in 2005 is carried to the first day of the record; an undisturbed site has none; a cube that knows no age is told so."""
    known = cube.assign(stand_age_site=("site", [5.0, np.nan, 30.0, 5.0], {"units": "yr"}), undisturbed=("site", [0.0, 0.0, 0.0, 1.0], {"units": "1"}))
    forcing = he.prepare_forcing(known, stand_age=True)
    years = int(forcing.time.dt.year[0]) - 2006
    np.testing.assert_equal(forcing.stand_age_at_start.values, np.where([True, False, True, False], np.array([5.0, 0, 30, 0]) + years, np.nan))
    with pytest.raises(ValueError, match="no stand_age_site"):
        he.prepare_forcing(cube.drop_vars("stand_age_site", errors="ignore"), stand_age=True)
    xr.testing.assert_identical(he.prepare_forcing(known), he.prepare_forcing(known, stand_age=False))
