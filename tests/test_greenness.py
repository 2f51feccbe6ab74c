"""Observed greenness as an input: what it drives, what it may not be, and that everything else stays as it was."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import hybridecosys as he
from hybridecosys.data.greenness import EXTRA_FORCING, ExtraForcing, greenness
from hybridecosys.data.observations import observations
from hybridecosys.learning.batches import make_training_data
from hybridecosys.learning.step import site_gradients
from hybridecosys.model.inputs import make_inputs

MODEL = he.wroasted(greenness="observed")


@pytest.fixture(scope="module")
def cube():
    return he.synthetic_cube(n_sites=4, years=2, seed=0, spinup="none")


@pytest.fixture(scope="module")
def forcing(cube):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return he.prepare_forcing(cube, **MODEL.forcing_options())


def test_light_follows_the_satellite(forcing):
    """Absorbed light is the observed one, day by day; GPP falls where it does; water and carbon close, and the leaf pool still lives."""
    wanted = ["gpp", "fapar", "fapar_difference", "fapar_of_leaves", "leaf", "water_balance", "nee", "evapotranspiration"]
    run = he.simulate(MODEL, forcing, spinup="accelerated", outputs=wanted, dtype="float64")
    assert np.allclose(run.fapar, forcing.greenness, atol=1e-12)
    assert np.allclose(run.fapar_difference, run.fapar_of_leaves - run.fapar, atol=1e-12) and float(abs(run.fapar_difference).max()) > 0
    assert float(abs(run.water_balance).max()) < 1e-9 and float(run.leaf.std("time").min()) > 0
    dark = forcing.assign(greenness=(0.5 * forcing.greenness).assign_attrs(forcing.greenness.attrs))
    less = he.simulate(MODEL, dark, spinup="accelerated", outputs=["gpp"], dtype="float64")
    assert (less.gpp <= run.gpp + 1e-9).all() and (less.gpp.mean("time") < run.gpp.mean("time")).all()
    assert run.attrs["driven_by"].split() == list(MODEL.driving_variables)


def test_the_plain_structure_does_not_see_it(cube, forcing):
    plain = he.simulate(he.wroasted(), he.prepare_forcing(cube), spinup="none", outputs=["gpp"])
    assert plain.gpp.equals(he.simulate(he.wroasted(), forcing, spinup="none", outputs=["gpp"]).gpp)


def test_spinup_repeats_the_mean_season(forcing):
    inputs = make_inputs(forcing)
    assert np.array_equal(inputs.first_year["greenness"], inputs.season["greenness"])
    assert not np.array_equal(inputs.first_year["t_air"], inputs.season["t_air"])


@pytest.mark.parametrize("name", ["FAPAR", "NDVI", "EVI", "LAI"])
def test_whatever_a_cube_carries(cube, name):
    one = cube.drop_vars(["FAPAR", "FAPAR_QC"], errors="ignore").assign({name: cube.FAPAR.assign_attrs(units="1")})
    driven = greenness(one, one.TA_F.notnull())
    assert set(driven.greenness_source.values) == {name} and bool(((driven.greenness >= 0) & (driven.greenness <= 1)).all())


def test_gaps_are_counted_and_a_site_without_greenness_is_named(cube):
    seen = cube.FAPAR.interpolate_na("time").bfill("time").ffill("time")
    holes = seen.copy(data=seen.values.copy())
    holes[0, 100:110], holes[1, 200:300] = np.nan, np.nan
    driven = greenness(cube.drop_vars("FAPAR_QC", errors="ignore").assign(FAPAR=holes), cube.TA_F.notnull())
    assert driven.greenness_interpolated.values.tolist() == [10, 0, 0, 0] and driven.greenness_from_season.values.tolist() == [0, 100, 0, 0]
    holes[2] = np.nan
    blind = cube.drop_vars(["FAPAR_QC", "NDVI", "EVI"], errors="ignore").assign(FAPAR=holes)
    with pytest.raises(ValueError, match=str(cube.site.values[2])):
        he.prepare_forcing(blind, **MODEL.forcing_options())


def test_missing_and_unknown_forcing(cube):
    with pytest.raises(ValueError, match="lacks greenness"):
        he.simulate(MODEL, he.prepare_forcing(cube), spinup="none")
    with pytest.raises(KeyError, match="irrigation"):
        he.prepare_forcing(cube, extra=["irrigation"])
    with pytest.raises(ValueError, match="greenness must be"):
        he.wroasted(greenness="satellite")


def test_an_input_is_no_target(cube):
    hybrid = he.HybridModel(MODEL, ["igbp"], spinup="none")
    with pytest.raises(ValueError, match="target fapar: FAPAR drives this model"):
        hybrid.fit(cube, epochs=1, targets=["gpp", "fapar"], progress=False)
    assert "fapar" not in observations(cube, without=MODEL.driving_variables)


def test_trains_saves_and_calibrates(cube, tmp_path):
    """Its parameters are learned; a saved hybrid gives the same run, and needs its structure. (Gradients through the spin-up: below.)"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hybrid = he.HybridModel(MODEL, ["igbp"], seed=0, spinup="none").fit(cube.isel(site=[0, 1, 2]), epochs=1, targets=["gpp", "nee"], progress=False)
        run = hybrid.simulate(cube.isel(site=[3]), outputs=["gpp"])
        hybrid.save(tmp_path / "hybrid")
        again = he.HybridModel.load(tmp_path / "hybrid", MODEL).simulate(cube.isel(site=[3]), outputs=["gpp"])
        assert run.gpp.equals(again.gpp) and hybrid.losses[hybrid.losses.target == "dropped_sites"].loss.sum() == 0
        assert he.HybridModel.load(tmp_path / "hybrid").model.approaches == hybrid.model.approaches  # a structure of the package's own is found
        with pytest.raises(ValueError, match="fapar"):
            he.HybridModel.load(tmp_path / "hybrid", he.wroasted())
        fit = he.calibrate(MODEL, cube.isel(site=[0]), targets=["gpp"], spinup="none", steps=1, starts=2, progress=False)
    assert "fapar.gain" in fit.parameters and "fapar.k_extinction" not in fit.parameters


def test_gradient_of_gain_and_offset(cube, forcing):
    pool = make_training_data(forcing, observations(cube, ["gpp", "evapotranspiration"]), packed=False)
    model = MODEL.for_training()
    learned = {n: jnp.full(4, model.parameter_table[n].default, jnp.float32) for n in model.learned}
    slopes = jax.jit(lambda p: site_gradients(model, p, pool.inputs, pool.observed, "accelerated", {})[1])(learned)
    assert all(np.isfinite(v).all() for v in slopes.values()) and (np.abs(slopes["fapar.gain"]) > 0).all() and (np.abs(slopes["fapar.offset"]) > 0).all()


def test_an_approach_brings_a_forcing_of_its_own(cube, monkeypatch):
    """Irrigation, say: declared once, prepared once, and used without touching another file."""
    def prepare(cube, record):
        return xr.Dataset({"shade": xr.where(record, 0.5, np.nan).assign_attrs(units="1")})

    monkeypatch.setitem(EXTRA_FORCING, "shade", ExtraForcing("1", "share of light that a roof takes", prepare))

    @he.approach("gpp_potential", returns="gpp_potential", forcing=("shade",))
    def shaded(rg, gpp_f_cloud, gpp_f_temperature, gpp_f_vpd, shade):
        return (1 - shade) * 1.0 * rg * gpp_f_cloud * gpp_f_temperature * gpp_f_vpd

    model = he.wroasted().replace(gpp_potential=shaded)
    run = he.simulate(model, he.prepare_forcing(cube, **model.forcing_options()), spinup="none", outputs=["gpp_potential"])
    plain = he.simulate(he.wroasted(), he.prepare_forcing(cube), {"gpp_potential.eps_max": 2.0}, spinup="none", outputs=["gpp_potential"])
    assert np.allclose(run.gpp_potential, 0.5 * plain.gpp_potential, rtol=1e-5)
