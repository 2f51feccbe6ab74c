"""A network in the place of a process: bounded, closed, differentiable, and trained, saved and loaded with the rest."""

import json
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hybridecosys as he
from hybridecosys.learning.calibration import Calibration
from hybridecosys.data.observations import observations
from hybridecosys.learning.cost import total_cost
from hybridecosys.learning.together import fit_together
from hybridecosys.learning.batches import make_training_data
from hybridecosys.learning.step import simulate_costs, site_gradients
from hybridecosys.processes.photosynthesis import preles
from hybridecosys.processes.process import Parameter


def evaporated(share, soil):
    """Soil water after a share of the top layer has evaporated, and the evaporation (mm d-1)."""
    water = share * soil[0]
    return (soil[0] - water, *soil[1:]), water


VPD = he.neural("gpp_vpd", ["vpd_day", "co2"], hidden=4, start=preles)
SEVERAL = he.wroasted().for_training().replace(
    gpp_vpd=VPD, turnover_temperature=he.neural("turnover_temperature", ["t_air", "gpp"], hidden=3, bounds=(0.01, 3)),
    turnover_moisture=he.neural("turnover_moisture", ["t_air"], hidden=3, bounds=[(0, 1), (0, 1)]),
    soil_evaporation=he.neural("soil_evaporation", ["pet", "fapar"], hidden=3, bounds=(0, 0.95), into=evaporated))
ONE = he.wroasted().for_training().replace(gpp_vpd=VPD)
ARRAYS = ["gpp_vpd.hidden_weights", "gpp_vpd.hidden_biases", "gpp_vpd.output_weights", "gpp_vpd.output_biases"]


@pytest.fixture(scope="module")
def cube():
    return he.synthetic_cube(n_sites=6, years=2, seed=0, spinup="none")


@pytest.fixture(scope="module")
def forcing(cube):
    return he.prepare_forcing(cube)


def drawn(model, seed, size=3.0):
    """Random weights for every network of a model."""
    rng = np.random.default_rng(seed)
    return {n: rng.normal(0, size, p.shape) for n, p in model.parameter_table.items() if p.shape}


def test_an_approach_like_any_other():
    assert SEVERAL.processes["gpp_vpd"].returns == ("gpp_f_vpd",) and SEVERAL.processes["soil_evaporation"].returns == ("soil", "soil_evaporation")
    assert set(ARRAYS) <= set(ONE.shared) and "gpp_vpd.kappa" not in ONE.parameter_table
    assert ONE.parameters.loc[ARRAYS, "shape"].tolist() == [(4, 2), (4,), (1, 4), (1,)] and "gpp_vpd.hidden_weights" in ONE._repr_html_()
    mine = ONE.fingerprint()
    assert json.loads(json.dumps(mine)) == mine and mine["gpp_vpd"][1]["hidden_weights"] == ["global", [4, 2]]
    for other in (dict(hidden=5), dict(bounds=(0, 2)), dict(scale={"co2": (300, 500)}), dict(seed=1)):
        assert ONE.replace(gpp_vpd=he.neural("gpp_vpd", ["vpd_day", "co2"], **{"hidden": 4, "start": preles, **other})).fingerprint() != mine
    again = pickle.loads(pickle.dumps(SEVERAL))
    assert again.fingerprint() == SEVERAL.fingerprint() and again.parameter_table == SEVERAL.parameter_table


def test_it_starts_near_the_equation_it_replaces():
    vpd, co2 = np.meshgrid(np.linspace(0.1, 2.9, 20), np.linspace(335, 425, 5))
    network = he.neural("gpp_vpd", ["vpd_day", "co2"], start=preles)
    own = {n: p.values for n, p in network.parameters.items()}
    wanted = preles(vpd, co2, **{n: p.default for n, p in preles.parameters.items()})
    assert np.abs(np.asarray(network(vpd_day=vpd, co2=co2, **own)) - wanted).max() < 0.05 < np.ptp(wanted)
    level = he.neural("gpp_vpd", ["vpd_day"], bounds=(0, 4), start=1.0)
    assert np.abs(np.asarray(level(vpd_day=vpd, **{n: p.values for n, p in level.parameters.items()})) - 1).max() < 0.5


@pytest.mark.parametrize("wrong, words", [
    (lambda: he.neural("gpp_vpd", ["moonlight"]), "moonlight"), (lambda: he.neural("gpp_vpd", ["vpd_day"], bounds=(1, 0)), "low < high"),
    (lambda: he.neural("gpp_vpd", ["vpd_day"], start=preles), "reads co2"), (lambda: he.neural("gpp_vpd", ["vpd_day"], start=2.0), "inside the bounds"),
    (lambda: ONE.replace(turnover_moisture=he.neural("turnover_moisture", ["t_air"])), "must return litter_f_moisture"),
    (lambda: ONE.insert(before="gpp", gap=he.neural("gap", ["t_air"])), "say what it gives"),
    (lambda: Parameter(0, -1, 1, "1", scope="site", shape=(2,)), "cannot be predicted for each site"), (lambda: Parameter(0, -1, 1, "1", scope="all"), "scope must be"),
    (lambda: Parameter((0, 0, 0), -1, 1, "1", scope="global", shape=(2,)), "has the shape")])
def test_what_cannot_work_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


@pytest.mark.parametrize("seed", [0, 1])
def test_water_and_carbon_close_whatever_it_says(forcing, seed):
    """Random weights, four processes at once: no water or carbon appears or vanishes, no pool is negative, every response stays within its bounds."""
    wanted = ["water_balance", "gpp_f_vpd", "turnover_f_temperature", "soil_evaporation", "nee", "root", "wood", "leaf", "reserve", "litter_fast", "litter_slow", "soil_slow", "soil_old", "soil_1"]
    run = he.simulate(SEVERAL, forcing, drawn(SEVERAL, seed), spinup="none", outputs=wanted, dtype="float64")
    carbon = sum(run[n] for n in ("root", "wood", "leaf", "reserve", "litter_fast", "litter_slow", "soil_slow", "soil_old"))
    assert float(abs(run.water_balance).max()) < 1e-9 and float(abs(carbon.diff("time") + run.nee.isel(time=slice(1, None))).max()) < 1e-9
    assert bool(((run.gpp_f_vpd >= 0) & (run.gpp_f_vpd <= 1)).all()) and bool(((run.turnover_f_temperature >= 0.01) & (run.turnover_f_temperature <= 3)).all())
    assert float(run.soil_1.min()) >= 0 and float(run.soil_evaporation.min()) >= 0 and float(run.gpp_f_vpd.std()) > 0


def test_arrays_as_parameters(forcing):
    """Given once, for each site, or as labelled arrays: the same run; what has another shape, or is not a number, is named."""
    given = drawn(ONE, 0)
    one = he.simulate(ONE, forcing, given, spinup="none", outputs=["gpp"]).gpp
    each = {n: np.repeat(v[..., None], forcing.sizes["site"], -1) for n, v in given.items()}
    assert np.allclose(one, he.simulate(ONE, forcing, each, spinup="none", outputs=["gpp"]).gpp, rtol=1e-4, atol=1e-5)
    each["gpp_vpd.output_biases"][..., 1] += 2
    other = he.simulate(ONE, forcing, each, spinup="none", outputs=["gpp"]).gpp
    assert (other != one).any("time").values.tolist()[:3] == [False, True, False] or np.abs(other - one).max("time").values.argmax() == 1
    for wrong, words in ((np.zeros((2, 2)), "the shape"), (np.full((4, 2), np.nan), "hidden_weights is nan")):
        with pytest.raises(ValueError, match=words):
            he.simulate(ONE, forcing, {"gpp_vpd.hidden_weights": wrong}, spinup="none")


@pytest.fixture(scope="module")
def pool(cube, forcing):
    return make_training_data(forcing, observations(cube, ["gpp", "reco", "evapotranspiration"]), packed=False)


@pytest.mark.parametrize("spinup", ["none", "accelerated"])
def test_gradients_are_finite(pool, spinup):
    table = {n: SEVERAL.parameter_table[n] for n in SEVERAL.learned}
    start = {n: np.broadcast_to(p.values, (*p.shape, 6)).astype(np.float32) for n, p in table.items()}
    costs, slopes = jax.jit(lambda p: site_gradients(SEVERAL, p, pool.inputs, pool.observed, spinup, {}))(start)
    assert all(np.isfinite(v).all() for v in slopes.values()) and np.isfinite(total_cost(costs)).all()
    assert all((np.abs(slopes[n]).sum(tuple(range(slopes[n].ndim - 1))) > 0).all() for n in ARRAYS)


def test_gradient_equals_central_differences(pool):
    """In float64, along a random direction in the space of all weights."""
    arrays = {n: p for n, p in ONE.parameter_table.items() if p.shape}
    with jax.enable_x64(True):
        inputs, seen = jax.tree.map(lambda x: np.asarray(x, np.float64) if np.asarray(x).dtype == np.float32 else x, (pool.inputs, pool.observed))
        rng = np.random.default_rng(0)
        way = {n: rng.normal(size=(*p.shape, 6)) for n, p in arrays.items()}
        at = {n: np.broadcast_to(p.values, (*p.shape, 6)).astype(float) for n, p in arrays.items()}
        cost = jax.jit(lambda h: total_cost(simulate_costs(ONE, {n: at[n] + h * way[n] for n in at}, inputs, seen, "none")))
        exact = jax.jit(lambda: site_gradients(ONE, {n: jnp.asarray(v) for n, v in at.items()}, inputs, seen, "none", {}, bounded=False)[1])()
        exact = sum((np.asarray(exact[n]) * way[n]).sum(tuple(range(way[n].ndim - 1))) for n in way)
        quotient = [np.asarray((cost(h) - cost(-h)) / (2 * h)) for h in (1e-5, 1e-6)]
    steady = np.abs(quotient[0] - quotient[1]) < 1e-4 * np.maximum(np.abs(quotient[1]), 1e-4)
    assert steady.sum() >= 3 and np.allclose(exact[steady], quotient[1][steady], rtol=1e-3, atol=1e-7)


def test_trained_saved_resumed(cube, tmp_path):
    """Arrays and a scalar that are learned once for all sites move, come back from disk, and resume to the bit; two members keep their own."""
    model = ONE.with_scope({"wue.kappa": "global"})
    sites = cube.site.values.astype(str)
    options = dict(decay=False, targets=["gpp"], progress=False, batch_size=2, max_years=1, learning_rate=0.02, weight_decay=0.1)

    def new(seed=0, features=("igbp",)):
        return he.HybridModel(model, features, seed, spinup="none")

    pair = fit_together([new(0), new(1)], cube, [sites[:4], sites[2:]], epochs=2, **options)
    found = [h.predict_parameters(cube) for h in pair]
    for p in found:
        assert p["gpp_vpd.hidden_weights"].dims == ("gpp_vpd.hidden_weights_dim_0", "gpp_vpd.hidden_weights_dim_1") and p["gpp_vpd.hidden_weights"].attrs["scope"] == "global"
        assert np.ptp(p["wue.kappa"].values) == 0 < np.ptp(p["gpp_potential.eps_max"].values)
        assert all((p[n].values != model.parameter_table[n].values[..., 0]).all() for n in ARRAYS)
    assert not np.allclose(found[0]["gpp_vpd.hidden_weights"], found[1]["gpp_vpd.hidden_weights"], atol=1e-4)
    pair[0].save(tmp_path / "hybrid")
    again = he.HybridModel.load(tmp_path / "hybrid", model)
    assert again.simulate(cube, ["gpp"]).gpp.equals(pair[0].simulate(cube, ["gpp"]).gpp) and "once for all sites" in repr(again) and "gpp_vpd.hidden_weights (4, 2)" in again._repr_html_()
    for other in (ONE, he.wroasted()):
        with pytest.raises(ValueError, match="differ"):
            he.HybridModel.load(tmp_path / "hybrid", other)
    fit_together([new(0), new(1)], cube, [sites[:4], sites[2:]], epochs=1, run_dir=tmp_path / "run", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed = fit_together([new(0), new(1)], cube, [sites[:4], sites[2:]], epochs=2, run_dir=tmp_path / "run", resume=True, **options)
    assert all(a.equals(h.predict_parameters(cube)) for a, h in zip(found, resumed))
    ensemble = he.HybridEnsemble(pair)
    run = ensemble.simulate_members(cube.isel(site=[0, 5]), ["gpp"])
    assert np.allclose(run.gpp[1, 1], pair[1].simulate(cube.isel(site=[5]), ["gpp"]).gpp[0], rtol=1e-3, atol=1e-4, equal_nan=True)
    with pytest.raises(ValueError, match="array of weights"):
        ensemble.predict_parameters(cube)


def test_calibration_holds_the_weights(cube, tmp_path):
    one, held = cube.isel(site=[0]), drawn(ONE, 0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits = [he.calibrate(ONE, one, targets=["gpp"], spinup="none", steps=1, starts=1, progress=False, starts_from=given) for given in ((), [held])]
        assert not set(ARRAYS) & set(fits[0].parameters) and fits[0].costs.item() != fits[1].costs.item()
        fits[1].save(tmp_path / "calibration")
        again = Calibration.load(tmp_path / "calibration", ONE)  # the weights that were held come with it
        assert again.simulate(one, ["gpp"]).gpp.equals(fits[1].simulate(one, ["gpp"]).gpp) and not again.simulate(one, ["gpp"]).gpp.equals(fits[0].simulate(one, ["gpp"]).gpp)
        with pytest.raises(ValueError, match="hidden_weights is an array"):
            he.calibrate(ONE, one, learned=["gpp_vpd.hidden_weights"], progress=False)


def test_scope_of_ordinary_parameters():
    model = he.wroasted().with_scope({"wue.kappa": "global", "gpp_cloud.mu": "fixed", "wue.co2_sat": "site"})
    assert model.shared == ("wue.kappa",) and "gpp_cloud.mu" not in model.learned and "wue.co2_sat" in model.learned
    assert model.fingerprint() != he.wroasted().fingerprint() and model.processes["lai"] is he.wroasted().processes["lai"]
    assert pickle.loads(pickle.dumps(model)).fingerprint() == model.fingerprint()
    with pytest.raises(KeyError, match="did you mean 'wue.kappa'"):
        model.with_scope({"wue.kapa": "global"})
