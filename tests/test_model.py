"""The process model: parity, closure, gradients, packing, spin-up, disturbance, replacement, bad input."""

import dataclasses
import json
import re
import warnings
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridecosys.data.cube import real_data_path
from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.data.weather import synthetic_weather
from hybridecosys.model import spinup as spinning
from hybridecosys.model import timeloop
from hybridecosys.model.inputs import make_inputs
from hybridecosys.model.jumps import jump_lengths
from hybridecosys.model.simulate import complete_parameters, run, simulate
from hybridecosys.model.structure import CARBON_POOLS, DEAD, FORCING, MEMORY, POOLS, STATE, VEGETATION, WATER_POOLS, model_diagram, model_tables, wroasted
from hybridecosys.processes.process import Parameter, Pool, approach

TARGETS = ("gpp", "nee", "eco_respiration", "evapotranspiration", "transpiration", "fapar_bare", "aboveground_biomass")
MODEL, SMOOTH, SITES = wroasted(), wroasted("smooth"), 8


def weather(n_sites: int, years: int, seed: int = 0) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prepare_forcing(synthetic_weather(n_sites=n_sites, years=years, seed=seed)).load()


@pytest.fixture(scope="module")
def forcing():
    """Sites of eight climates, two years."""
    return weather(SITES, 2)


def sim(forcing, given=None, spinup="none", **options) -> xr.Dataset:
    """`simulate` with every parameter given per site, so that all tests share what is compiled."""
    default = {name: np.full(forcing.sizes["site"], p.default) for name, p in MODEL.parameter_table.items()}
    spread = {name: np.broadcast_to(v, forcing.sizes["site"]) for name, v in (given or {}).items()}
    return simulate(MODEL, forcing, default | spread, spinup, **options)


def draw(model, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: rng.uniform(p.lower, p.upper, n) for name, p in model.parameter_table.items() if p.learned}


def without_leap(first: str, n: int) -> pd.DatetimeIndex:
    days = pd.date_range(first, periods=n + n // 1000 + 2)
    return days[~((days.month == 2) & (days.day == 29))][:n]


# parity


def golden_inputs(golden):
    renamed = golden[[*FORCING]].rename(case="site", day="time")
    forcing = renamed.assign_coords(time=without_leap("2001-01-01", golden.sizes["day"]))
    for name, unit in FORCING.items():
        forcing[name].attrs["units"] = unit
    forcing = forcing.merge(golden[["sand", "clay", "tree_fraction", "vegetation_fraction", "plant_form"]].rename(case="site"))
    return forcing, {str(n): golden.parameters.sel(parameter=n).values for n in golden.parameter.values}


@pytest.mark.parametrize("dtype, tolerance, balance", [("float64", 1e-6, 1e-9), ("float32", 1e-3, 1e-3)])
def test_golden_trajectories(dtype, tolerance, balance):
    path = real_data_path("golden/wroasted.nc")
    if path is None:
        pytest.skip("golden/wroasted.nc is not in the data folder")
    golden = xr.open_dataset(path).load()
    result = simulate(MODEL, *golden_inputs(golden), spinup="none", dtype=dtype)
    assert golden.sizes["case"] == 4
    for name in [n[4:] for n in golden.data_vars if n.startswith("out_")]:
        truth = golden[f"out_{name}"].values
        allowed = np.full(4, balance) if name == "water_balance" else tolerance * np.ptp(truth, axis=1)
        if name == "gpp_f_soil_water":  # constant where it is never dry
            allowed = np.maximum(allowed, tolerance)
        assert (np.abs(result[name].values - truth).max(1) < allowed).all(), name
    for kind in ("final_water", "final_carbon"):
        truth, ours = golden[kind].values, result[kind].values
        assert (np.abs(ours - truth) <= tolerance * np.maximum(np.abs(truth), 1e-3)).all(), kind
    assert result.attrs["precision"] == dtype and (golden.disturbance > 0).any()  # a disturbance is among them


# closure


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spinup", ["none", "reference"])
def test_water_and_carbon_close_and_fluxes_stay_in_bounds(forcing, dtype, spinup):
    rng = np.random.default_rng(0)
    for given in ({}, *(draw(MODEL, SITES, rng) for _ in range(8 if spinup == "none" else 2))):
        assert_closed(forcing, sim(forcing, given, spinup=spinup, dtype=dtype), dtype)


def assert_closed(forcing, result, dtype):
    for name in ("gpp", "transpiration", "soil_evaporation", "evapotranspiration", "snow_melt", "runoff", *POOLS):
        assert float(result[name].min()) >= 0, name
    for name in ("fapar", "fapar_bare", "gpp_f_soil_water", "gpp_f_vpd", "gpp_f_temperature", "gpp_f_cloud"):
        assert 0 <= float(result[name].min()) and float(result[name].max()) <= 1 + 1e-6, name
    double = result.astype(float)
    water, carbon = (sum(double[n] for n in names) for names in (WATER_POOLS, CARBON_POOLS))
    nee, store = double.nee.values[:, 1:], carbon.values[:, 1:]
    assert (np.abs(np.diff(carbon.values, axis=1) + nee) < (1e-9 if dtype == "float64" else 1e-6) * store).all()
    gain = forcing.precip - double.runoff - double.evapotranspiration
    open_water = np.abs(np.diff(water.values, axis=1) - gain.values[:, 1:])
    assert (open_water < (1e-9 * water.values[:, 1:] if dtype == "float64" else 1e-3)).all()
    np.testing.assert_allclose(double.nee, double.eco_respiration - double.gpp, atol=1e-4)
    np.testing.assert_allclose(double.eco_respiration, double.auto_respiration + double.hetero_respiration, atol=1e-4)
    np.testing.assert_allclose(double.npp, double.gpp - double.auto_respiration, atol=1e-4)


def test_groundwater_of_metres_closes_in_float32(forcing):
    full = sim(forcing)
    full["final_water"].loc[{"water_pool": "groundwater"}] = 12000.0
    assert np.abs(sim(forcing, state=full).water_balance).max() < 1e-3


# gradients


def targets(parameters, state, inputs):
    _, out = run(SMOOTH, parameters, inputs, "none", TARGETS, spinning.scale_pools(SMOOTH.plan(), state, parameters))
    return jnp.stack([out[t].mean((0, 1)) for t in TARGETS])


def gradients(parameters, state, inputs, weights):
    def cost(learned, state):
        return (weights @ targets({**parameters, **learned}, state, inputs)).sum()

    return jax.grad(cost, (0, 1))({n: parameters[n] for n in SMOOTH.learned}, state)


def at_start(forcing, dtype, rng, spread: float = 1.0):
    inputs = make_inputs(forcing, np.dtype(dtype))
    parameters = {n: jnp.full(inputs.n_site, p.default, dtype) for n, p in SMOOTH.parameter_table.items()}
    for name, values in draw(SMOOTH, inputs.n_site, rng).items():
        parameters[name] = jnp.asarray(spread * values + (1 - spread) * np.asarray(parameters[name]), dtype)
    return parameters, spinning.initial_state(spinning.bind(SMOOTH, parameters, inputs), inputs), inputs


def test_gradients_agree_with_central_differences(forcing):
    with jax.enable_x64(True):
        parameters, state, inputs = at_start(forcing.isel(time=slice(0, 365)), "float64", np.random.default_rng(5), spread=0.5)
        value, slope = jax.jit(targets), jax.jit(gradients)
        each = [slope(parameters, state, inputs, row) for row in jnp.eye(len(TARGETS))]
        here = value(parameters, state, inputs)
        agree, zero = [], []
        for name in (*SMOOTH.learned, *STATE):
            exact = jnp.stack([(g[0] if name in g[0] else g[1])[name] for g in each])
            if name in SMOOTH.learned:
                size = SMOOTH.parameter_table[name].upper - SMOOTH.parameter_table[name].lower
                up, down = (value({**parameters, name: parameters[name] + s * 1e-6 * size}, state, inputs) for s in (1, -1))
            else:
                size = jnp.maximum(jnp.abs(state[name]), 0.1)
                up, down = (value(parameters, {**state, name: state[name] + s * 1e-6 * size}, inputs) for s in (1, -1))
            quotient = (up - down) / (2e-6 * size)
            scale = jnp.maximum(jnp.maximum(jnp.abs(exact), jnp.abs(quotient)), 1e-4 * jnp.abs(here) / size)
            agree.append(np.asarray(jnp.abs(exact - quotient) < 1e-4 * scale))
            if not (exact != 0).any():
                zero.append(name)
    assert set(zero) <= {"surface", "ci_min", "groundwater"}  # inert, at its limit, and not yet tapped
    assert np.mean(agree) > 0.995 and all(a.mean() > 0.7 for a in agree)  # the rest straddles a kink


def test_gradient_is_the_same_whatever_is_kept_of_the_days(forcing, monkeypatch):
    def gpp(learned):
        return run(SMOOTH, {**parameters, **learned}, inputs, "none", ("gpp",), state)[1]["gpp"].mean()

    with jax.enable_x64(True):
        parameters, state, inputs = at_start(forcing.isel(time=slice(0, 730)), "float64", np.random.default_rng(6), spread=0.5)
        learned = {n: parameters[n] for n in ("gpp_potential.eps_max", "fapar.k_extinction", "drainage.exponent")}
        found, sizes = [], []
        for kept in (timeloop.KEPT, 0):
            monkeypatch.setattr(timeloop, "KEPT", kept)
            compiled = jax.jit(jax.grad(lambda p: gpp(p))).lower(learned).compile()
            found.append(compiled(learned))
            sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[0] > sizes[1]  # the mornings of two years or of one
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *found)


@pytest.mark.parametrize("texture", [(0.4, 0.2), (0.85, 0.05)])
def test_gradients_are_finite_for_random_parameters_even_where_the_water_oscillates(texture):
    many = weather(4, 1).isel(site=np.tile(np.arange(4), 25))
    many = many.assign_coords(site=np.arange(100).astype(str))
    many["sand"], many["clay"] = ("site", np.full(100, texture[0])), ("site", np.full(100, texture[1]))
    slope = jax.jit(gradients)
    arguments = at_start(many, "float32", np.random.default_rng(2))
    for row in jnp.eye(len(TARGETS)):
        assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(slope(*arguments, row)))


def test_rooting_depth_has_a_gradient_in_the_smooth_model_only():
    def reached(fraction, model):
        return sum(model.processes["root_depth"](fraction))

    for fraction in (0.2, 0.4, 0.7):
        assert jax.grad(reached)(fraction, MODEL) == 0 and jax.grad(reached)(fraction, SMOOTH) > 0
    assert [float(x) for x in MODEL.processes["root_depth"](jnp.float32(0.5))] == [1, 1, 1, 1]  # 1000 mm touches layer 4
    assert [float(x) for x in SMOOTH.processes["root_depth"](0.5)] == [1, 1, 1, 0]
    assert MODEL.for_training().processes["root_depth"] is SMOOTH.processes["root_depth"]


# packing and restart


def test_packed_sites_of_unequal_length_run_as_they_would_alone(forcing):
    lengths, day = np.array([730, 365, 300]), np.arange(730)
    first = np.array([0, 100, 430])[:, None]  # the last record lies at the end
    inside = xr.DataArray((day >= first) & (day < first + lengths[:, None]), dims=("site", "time"))
    three = forcing.isel(site=[0, 1, 2])
    three = three.assign({n: three[n].where(inside) for n in FORCING})
    assert make_inputs(three).shape == (2, 365, 2)
    together = sim(three)
    for i, site in enumerate(three.site.values):
        alone = sim(three.isel(site=[i]).dropna("time", subset=["t_air"]))
        assert alone.sizes["time"] == lengths[i]
        for name in ("gpp", "nee", "soil_4", "wood", "water_balance"):
            ours = together[name].sel(site=site)
            assert ours.notnull().sum() == lengths[i]
            np.testing.assert_allclose(ours.dropna("time"), alone[name][0], rtol=2e-5, atol=2e-4)
        np.testing.assert_allclose(together.final_carbon.sel(site=site), alone.final_carbon[0], rtol=2e-5)


def test_a_lane_ends_with_its_record(forcing):
    """Whole years and no lane that is shared: the shorter record must not go on to the end of the longer."""
    two = forcing.isel(site=[0, 1])
    inside = xr.DataArray(np.arange(730) < np.array([[730], [365]]), dims=("site", "time"))
    two = two.assign({n: two[n].where(inside) for n in FORCING})
    inputs = make_inputs(two)
    assert inputs.schedule is None and inputs.shape == (2, 365, 2)
    together, alone = sim(two, spinup="accelerated"), sim(two.isel(site=[1], time=slice(0, 365)), spinup="accelerated")
    for name in ("final_carbon", "final_water"):
        np.testing.assert_allclose(together[name][1], alone[name][0], rtol=2e-5, atol=1e-4)


def test_restart_from_a_state_equals_the_uninterrupted_run(forcing):
    whole = sim(forcing, dtype="float64")
    head = sim(forcing.isel(time=slice(0, 400)), dtype="float64")
    tail = sim(forcing.isel(time=slice(400, None), site=[2, 0]), state=head, dtype="float64")  # other order, fewer sites
    for name in ("gpp", "nee", "evapotranspiration", "soil_old", "gpp_f_cloud"):
        np.testing.assert_allclose(tail[name], whole[name].isel(site=[2, 0], time=slice(400, None)), rtol=1e-11, atol=1e-11)
    for name in ("final_water", "final_carbon", "final_memory"):
        np.testing.assert_allclose(tail[name], whole[name].isel(site=[2, 0]), rtol=1e-11, atol=1e-13)


# spin-up and disturbance


def test_reference_spinup_is_the_loop_of_200_first_years_and_ignores_disturbance(forcing):
    kills = forcing.assign(disturbance=forcing.disturbance.copy(data=np.where(np.arange(730) == 100, 0.7, 0.0) * np.ones((SITES, 1))))
    calm = forcing.assign(disturbance=xr.zeros_like(forcing.disturbance))
    first = calm.isel(time=slice(0, 365))
    season = first.assign({n: first[n].copy(data=(calm[n].values[:, :365] + calm[n].values[:, 365:]) / 2) for n in FORCING})
    state = sim(calm, dtype="float64")
    state = sim(season, state=state, dtype="float64")
    for _ in range(200):
        state = sim(first, state=state, dtype="float64")
    by_hand = sim(kills, state=state, dtype="float64")
    result = sim(kills, spinup="reference", dtype="float64")
    for name in ("gpp", "nee", "leaf", "final_water", "final_carbon", "final_memory"):
        np.testing.assert_allclose(result[name], by_hand[name], rtol=1e-9, atol=1e-12)
    drop = result.leaf.values[:, 100] / result.leaf.values[:, 99]
    assert (drop[result.leaf.values[:, 99] > 60] < 0.99).all() and (result.leaf.values[:, 99] > 60).any()
    undisturbed = sim(calm, spinup="reference", dtype="float64")
    np.testing.assert_allclose(result.leaf[:, :100], undisturbed.leaf[:, :100], rtol=1e-12)


def spun(forcing, kind, dtype):
    with jax.enable_x64(dtype == "float64"):
        inputs = make_inputs(forcing, np.dtype(dtype))
        parameters = {n: jnp.full(inputs.n_site, p.default, dtype) for n, p in SMOOTH.parameter_table.items()}
        state = jax.jit(spinning.spin_up, static_argnums=2)(spinning.bind(SMOOTH, parameters, inputs), inputs, kind)
        return {n: np.asarray(v, float) for n, v in state.items()}


def test_accelerated_spinup_gives_the_reference_result_where_the_quick_pools_settle(forcing):
    truth, ours = spun(forcing, "reference", "float64"), spun(forcing, "accelerated", "float32")
    apart = {n: np.abs(ours[n] - truth[n]) / np.maximum(np.abs(truth[n]), 0.1) for n in POOLS}
    settled = np.max([apart[n] for n in POOLS if n not in spinning.slow_pools(SMOOTH.plan())], 0) < 3e-4
    assert settled.sum() >= SITES // 2
    assert max(apart[n][settled].max() for n in POOLS) < 2e-3
    assert all(np.allclose(ours[n], truth[n], rtol=1e-5) for n in ("ci_min", "ci_max", "rg_pot_max"))


def test_accelerated_spinup_agrees_with_differences(forcing):
    names = ("gpp_potential.eps_max", "turnover.wood_scale", "autotrophic_respiration.rmn", "drainage.exponent")
    with jax.enable_x64(True):
        inputs = make_inputs(forcing.isel(site=[0, 3]), np.float64)
        default = {n: jnp.full(2, float(p.default)) for n, p in SMOOTH.parameter_table.items()}

        def pools(learned):
            parameters = {**default, **learned}
            state = spinning.accelerated_spinup(spinning.bind(SMOOTH, parameters, inputs).undisturbed, inputs)
            return sum(state[n] for n in ("leaf", "wood", "litter_slow", "soil_slow", "groundwater"))

        here = {n: default[n] for n in names}
        def summed(learned):
            values = pools(learned)
            return values.sum(), values

        solve = jax.jit(jax.value_and_grad(summed, has_aux=True))
        (_, value), slope = solve(here)
        for name in names:
            step = 1e-6 * (SMOOTH.parameter_table[name].upper - SMOOTH.parameter_table[name].lower)
            up, down = (solve({**here, name: here[name] + h})[0][1] for h in (step, -step))
            np.testing.assert_allclose(slope[name], (up - down) / (2 * step), rtol=1e-4, atol=1e-9 * np.abs(value).max())


def test_accelerated_spinup_refuses_a_model_in_which_slow_pools_feed_back(forcing):
    @approach("lai", returns=("lai", "leaf"))
    def shaded(leaf, wood):
        return 0.016 * leaf, leaf * (1 - 1e-9 * wood)

    odd = SMOOTH.replace(lai=shaded)
    with pytest.raises(ValueError, match="feed back on nothing else, but .* depends on them"):
        simulate(odd, forcing, spinup="accelerated")
    assert jump_lengths(200)[-1] == 0 and sum(jump_lengths(200)) + len(jump_lengths(200)) == 200


def test_eta_scales_the_pools_and_gives_no_flux(forcing):
    eta = {"spinup.eta_autotrophic": 2.0, "spinup.eta_heterotrophic": 0.5}
    with jax.enable_x64(True):
        inputs = make_inputs(forcing, np.float64)

        def state(given):
            parameters = {n: jnp.asarray(v) for n, v in complete_parameters(MODEL, given, forcing.site.values).items()}
            solved = jax.jit(spinning.spin_up, static_argnums=2)(spinning.bind(MODEL, parameters, inputs), inputs, "reference")
            return {name: np.asarray(value) for name, value in solved.items()}

        plain, scaled = state({}), state(eta)
    for name in STATE:
        factor = 2.0 if name in VEGETATION else 0.5 if name in DEAD else 1.0
        np.testing.assert_allclose(scaled[name], factor * plain[name], rtol=1e-12)
    result = sim(forcing, eta, spinup="reference", dtype="float64")
    after = sum(result[n].values[:, 0] for n in CARBON_POOLS)
    before = sum(scaled[n] for n in CARBON_POOLS)
    np.testing.assert_allclose(result.nee.values[:, 0], before - after, atol=1e-9 * before.max())
    assert (np.abs(result.nee.values[:, 0]) < 0.02 * before).all()


def test_equilibrium_stays_and_its_gradient_agrees_with_differences():
    forcing = weather(1, 1)
    names = ("gpp_potential.eps_max", "turnover.litter_scale", "turnover.wood_scale", "fapar.k_extinction", "drainage.exponent")
    with jax.enable_x64(True):
        inputs = make_inputs(forcing, np.float64)
        default = {n: jnp.full(1, float(p.default)) for n, p in SMOOTH.parameter_table.items()}

        def carbon(learned):
            state = spinning.equilibrium(spinning.bind(SMOOTH, {**default, **learned}, inputs).undisturbed, inputs, tolerance=1e-12)
            return sum(state[n] for n in (*VEGETATION, "litter_fast", "litter_slow")).sum(), state

        solve = jax.jit(jax.value_and_grad(carbon, has_aux=True))
        here = {n: default[n] for n in names}
        (total, state), slope = solve(here)
        later = spinning.years(spinning.bind(SMOOTH, default, inputs).undisturbed, state, inputs.first_year)
        assert (spinning.relative_change(SMOOTH.plan(), state, later) < 1e-4).all() and total > 1000
        for name in names:
            step = 1e-6 * (SMOOTH.parameter_table[name].upper - SMOOTH.parameter_table[name].lower)
            up, down = (solve({**here, name: here[name] + h})[0][0] for h in (step, -step))
            np.testing.assert_allclose(slope[name], (up - down) / (2 * step), rtol=1e-5, atol=1e-9 * total)


# structure


def test_dynamics_are_a_model_bound_to_its_parameters(forcing):
    inputs = make_inputs(forcing.isel(site=[0, 3], time=slice(0, 365)))
    parameters = {n: jnp.full(2, p.default) for n, p in MODEL.parameter_table.items()}
    dynamics = spinning.bind(MODEL, parameters, inputs)
    assert "disturbance" not in [a.process for a in dynamics.undisturbed.plan.approaches] and MODEL.plan() == wroasted().plan() != SMOOTH.plan()
    assert len(jax.tree.leaves(dynamics)) == len(parameters) + len(jax.tree.leaves(dynamics.static))

    @jax.jit
    def ten_days(dynamics, state):
        block = {n: x[0, :10] for n, x in inputs.forcing.items()}
        whole, out = dynamics.block(state, block, outputs=("gpp",))
        weather = timeloop.weather_values(dynamics, state, block)
        for day in range(10):
            new, single = dynamics.day({n: state[n] for n in POOLS} | {n: state[n] for n in MEMORY}, {k: v[day] for k, v in weather.items()}, ("gpp",))
            state = {n: new[n] for n in STATE}
        return (whole, out["gpp"][-1]), (state, single["gpp"])

    state = spinning.initial_state(dynamics, inputs)
    by_block, by_day = ten_days(dynamics, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), by_block, by_day)
    other = spinning.bind(MODEL, {**parameters, "gpp_potential.eps_max": jnp.full(2, 1.0)}, inputs)
    assert (ten_days(other, state)[0][1] < by_block[1]).all() and ten_days._cache_size() == 1  # compiled once for all parameters


def test_replace_swaps_one_process_and_keeps_its_parameters(forcing):
    def hyperbolic(vpd_day, kappa):
        return 1 / (1 + kappa * vpd_day)

    other = MODEL.replace(gpp_vpd=hyperbolic)
    assert set(MODEL.parameter_table) - set(other.parameter_table) == {"gpp_vpd.c_kappa", "gpp_vpd.co2_base", "gpp_vpd.co2_sat"}
    result = simulate(other, forcing, {"gpp_vpd.kappa": 0.5}, spinup="none", outputs=["gpp_f_vpd"])
    np.testing.assert_allclose(result.gpp_f_vpd, 1 / (1 + 0.5 * forcing.vpd_day), rtol=1e-5)
    assert "gpp_vpd.c_kappa" in MODEL.parameter_table  # the original is untouched

    @approach("lai", returns="lai", b=Parameter(2.0, 1.0, 3.0, "1", "a new one", learned=True))
    def power_law(leaf, b):
        return leaf**b

    assert "lai.b" in MODEL.replace(lai=power_law).learned


def test_replace_refuses_what_cannot_work():
    with pytest.raises(KeyError, match="unknown process.*gpp_vdp"):
        MODEL.replace(gpp_vdp=lambda vpd_day: vpd_day)
    with pytest.raises(ValueError, match="gpp_vpd.*vpd_night"):
        MODEL.replace(gpp_vpd=lambda vpd_night: vpd_night)
    with pytest.raises(TypeError, match="gpp_vpd needs a function"):
        MODEL.replace(gpp_vpd=3.0)
    with pytest.raises(ValueError, match="approach to wue, not to gpp_vpd"):
        MODEL.replace(gpp_vpd=MODEL.processes["wue"])
    with pytest.raises(ValueError, match="rooting"):
        wroasted("deep")


@approach("interception", returns=("rain", "interception"), leaves="interception", capacity=Parameter(0.2, 0, 1, "mm", "held by leaves", learned=True))
def wet_canopy(rain, lai, capacity):
    held = jnp.where(rain < capacity * lai, rain, capacity * lai)
    return rain - held, held


def test_a_process_that_takes_water_out_of_the_site_closes_the_balance(forcing):
    wet = MODEL.insert(before="snow_melt", interception=wet_canopy)
    assert wet == MODEL.insert(after="snow_cover", interception=wet_canopy) and wet.remove("interception") == MODEL
    assert [*wet.processes].index("interception") + 1 == [*wet.processes].index("snow_melt") and "interception.capacity" in wet.learned
    names = ["interception", "evapotranspiration", "soil_evaporation", "transpiration", "water_balance"]
    forcing = forcing.isel(site=[0, 3, 7])
    result = simulate(wet, forcing, {"interception.capacity": 0.5}, spinup="none", outputs=names, dtype="float64")
    assert np.abs(result.water_balance).max() < 1e-9 and (result.interception.max("time") > 0.01).all()
    np.testing.assert_allclose(result.evapotranspiration, result.soil_evaporation + result.transpiration + result.interception, atol=1e-12)
    assert result.interception.attrs == {"units": "mm d-1", "long_name": "interception"}  # no standard name is guessed

    def drier(rain, lai):  # a plain function takes over what the approach declares
        return rain - 0.1 * rain, 0.1 * rain

    same = simulate(wet.replace(interception=drier), forcing, spinup="none", outputs=["water_balance"], dtype="float64")
    assert np.abs(same.water_balance).max() < 1e-9
    silent = MODEL.insert(before="snow_melt", interception=approach("interception", returns=("rain", "interception"))(drier))
    with pytest.warns(UserWarning, match="water does not close in wroasted") as said:
        taken = simulate(silent, forcing, spinup="none", outputs=["water_balance", "interception"], dtype="float64")
    np.testing.assert_allclose(taken.water_balance, taken.interception, atol=1e-9)
    at = taken.interception.stack(at=("site", "time"))
    site, day, amount = re.search(r"most at site (\S+) on (\S+), where (\S+) mm vanishes", str(said[0].message)).groups()
    assert float(amount) == pytest.approx(float(at.max()), rel=1e-2) == pytest.approx(float(taken.interception.sel(site=site, time=day).item()), rel=1e-2)


def test_carbon_that_leaves_is_counted_or_told(forcing):
    burn = lambda litter_fast: (litter_fast - 0.01 * litter_fast, 0.01 * litter_fast)  # noqa: E731
    declared = approach("fire", returns=("litter_fast", "burnt"), leaves="burnt", units={"burnt": ("gC m-2 d-1", "burnt carbon")})(burn)
    silent = approach("fire", returns=("litter_fast", "burnt"), units={"burnt": ("gC m-2 d-1", "burnt carbon")})(burn)
    few = forcing.isel(site=[1, 2], time=slice(0, 60))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(MODEL.insert(after="carbon_transfer", fire=declared), few, spinup="none", outputs="burnt")
    with pytest.warns(UserWarning, match=r"carbon does not close in wroasted: most at site SY-\d+ on \d{4}-\d\d-\d\d, where .* gC m-2 vanishes"):
        simulate(MODEL.insert(after="carbon_transfer", fire=silent), few, spinup="none", outputs="burnt")
    with pytest.raises(ValueError, match="fire: burnt leaves the site in kg; it must be mm d-1"):
        MODEL.insert(after="carbon_transfer", fire=approach("fire", returns=("litter_fast", "burnt"), leaves="burnt", units={"burnt": "kg"})(burn))


@pytest.mark.parametrize("cube", ["synthetic", "real"])
def test_wroasted_closes_without_a_warning(cube):
    if cube == "real":
        path = real_data_path("fluxnet/fluxnet2015_daily.nc")
        if path is None:
            pytest.skip("the real cube is not beside the checkout")
        from hybridecosys.data.cube import open_cube

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            few = prepare_forcing(open_cube(path).isel(site=slice(0, None, 25)), on_gap="longest").load()
    else:
        few = weather(32, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(MODEL, few, spinup="none", outputs="gpp")


def test_layers_of_a_process_are_labelled(forcing):
    deep = approach("warmth", returns="warmth", units={"warmth": ("degC", "temperature of each layer")})(lambda t_air: (t_air, 0.5 * t_air))
    few = forcing.isel(site=[0, 3], time=slice(0, 20))
    result = simulate(MODEL.insert(before="snow_melt", warmth=deep), few, spinup="none", outputs=["warmth", "soil", "soil_4", "w_sat"])
    assert result.warmth.dims == ("site", "warmth_layer", "time") and result.warmth.attrs["units"] == "degC"
    np.testing.assert_allclose(result.warmth.isel(warmth_layer=1), 0.5 * few.t_air, rtol=1e-6)
    assert result.w_sat.dims == ("site", "layer") and (result.soil.sel(layer=4) == result.soil_4).all()
    stacked = approach("warmth", returns="warmth")(lambda t_air, leaf: jnp.stack([t_air, leaf]))
    with pytest.raises(ValueError, match="warmth: approach .* returns warmth as an array of the shape .* return a tuple of layers"):
        simulate(MODEL.insert(before="snow_melt", warmth=stacked), few, spinup="none", outputs="warmth")


def test_a_run_describes_itself_by_cf_and_keeps_it_in_files(forcing, tmp_path):
    few = forcing.isel(site=[0, 3], time=slice(0, 20))
    result = simulate(MODEL, few, spinup="none", outputs=["gpp", "snow", "nee", "soil"])
    assert result.attrs["Conventions"].startswith("CF-") and "hybridecosys" in result.attrs["source"] and result.attrs["title"]
    assert result.gpp.attrs["standard_name"] == "gross_primary_productivity_of_biomass_expressed_as_carbon" and "standard_name" not in result.nee.attrs
    assert result.latitude.attrs["units"] == "degrees_north" and result.longitude.attrs["standard_name"] == "longitude"
    assert all(v.attrs["units"] and v.attrs["long_name"] for v in result.data_vars.values()) and all(v.attrs["long_name"] for v in result.coords.values())
    result.to_netcdf(tmp_path / "run.nc")
    result.to_zarr(tmp_path / "run.zarr")
    for back in (xr.open_dataset(tmp_path / "run.nc"), xr.open_zarr(tmp_path / "run.zarr")):
        assert back.attrs == result.attrs and all(back[n].attrs == v.attrs for n, v in result.variables.items())
    same, other = (simulate(MODEL, few, given, spinup="none", outputs="gpp").attrs["fingerprint"] for given in (None, {"wue.kappa": 0.5}))
    assert same == result.attrs["fingerprint"] != other


def test_changes_of_a_model_that_cannot_work_are_refused():
    wet = MODEL.insert(before="snow_melt", interception=wet_canopy)
    with pytest.raises(KeyError, match="unknown process 'snowmelt'; did you mean 'snow_melt'"):
        MODEL.insert(after="snowmelt", interception=wet_canopy)
    with pytest.raises(TypeError, match="after or before"):
        MODEL.insert(interception=wet_canopy)
    with pytest.raises(TypeError, match="height is new, so say what it gives"):
        MODEL.insert(after="lai", height=lambda wood: wood)
    with pytest.raises(ValueError, match="interception is there already"):
        wet.insert(after="lai", interception=wet_canopy)
    with pytest.raises(ValueError, match="approach to interception, not to canopy"):
        MODEL.insert(after="lai", canopy=wet_canopy)
    with pytest.raises(ValueError, match="interception: approach wet_canopy asks for lai"):
        MODEL.insert(before="lai", interception=wet_canopy)
    with pytest.raises(ValueError, match="interception leaves the site, but no process after it"):
        MODEL.insert(after="water_fluxes", interception=wet_canopy)
    with pytest.raises(KeyError, match="did you mean 'wue'"):
        MODEL.remove("wu")
    with pytest.raises(ValueError, match="wue cannot be removed: process gpp: approach coupled asks for wue"):
        MODEL.remove("wue")
    with pytest.raises(ValueError, match="is declared, but not among what it returns"):
        approach("interception", returns="rain", leaves="interception")(lambda rain: rain)


def test_fingerprint_tells_models_apart():
    assert MODEL.fingerprint() == wroasted().fingerprint() and json.loads(json.dumps(MODEL.fingerprint())) == MODEL.fingerprint()
    mine = MODEL.fingerprint()
    assert mine["root_depth"][:2] == ["step_depth", {"fraction": [0.5, 0.1, 0.8]}] and SMOOTH.fingerprint()["root_depth"][0] == "smooth_depth"
    other = MODEL.insert(before="snow_melt", interception=wet_canopy).fingerprint()
    assert other.pop("interception")[:2] == ["wet_canopy", {"capacity": [0.2, 0, 1]}]
    differ = {name for name in mine if mine[name] != other[name]}
    assert differ == {"snow_melt", "rain_snow", "water_fluxes"}  # who reads rain, who had the last word on it, who adds up what leaves


def test_fingerprint_knows_whatever_changes_a_result():
    def swapped(model, a, b):
        names = [*model.processes]
        i, j = names.index(a), names.index(b)
        names[i], names[j] = names[j], names[i]
        return dataclasses.replace(model, approaches=tuple(model.processes[n] for n in names))

    mine = MODEL.fingerprint()
    assert swapped(MODEL, "drainage", "capillary").fingerprint() != mine  # the order of two that change the soil
    assert swapped(MODEL, "rain_snow", "pet").fingerprint() == mine  # and not that of two that know nothing of each other
    wider = dataclasses.replace(MODEL.processes["turnover_moisture"].parameters["exponent"], default=12.0)  # has no bounds
    moist = dataclasses.replace(MODEL.processes["turnover_moisture"], parameters={**MODEL.processes["turnover_moisture"].parameters, "exponent": wider})
    assert MODEL.replace(turnover_moisture=moist).fingerprint() != mine
    more = approach("lai", returns=("lai", "leaf"))(lambda leaf: (0.016 * leaf, leaf))
    less = approach("lai", returns=("lai", "wood"))(lambda leaf: (0.016 * leaf, leaf))
    assert MODEL.replace(lai=more).fingerprint()["lai"] != MODEL.replace(lai=less).fingerprint()["lai"]
    fuller = dataclasses.replace(MODEL.processes["base_flow"], pools={"groundwater": Pool("water", 500.0, "groundwater")})
    assert MODEL.replace(base_flow=fuller).fingerprint() != mine


@pytest.mark.parametrize("greenness", ["modelled", "observed"])
def test_every_output_has_unit_and_meaning(greenness):
    for name, (unit, meaning) in wroasted(greenness=greenness).variables.items():
        assert unit and meaning, name


def test_a_model_shows_itself_in_a_notebook():
    wet = MODEL.insert(before="snow_melt", interception=wet_canopy)
    page = wet._repr_html_()
    root = ElementTree.fromstring(model_diagram(wet))
    assert set(wet.processes) <= {t.text for t in root.findall(".//{*}text")} and len(root.findall("{*}g")) == len(wet.processes)
    for words in (*wet.parameter_table, *STATE, *wet.outputs):
        assert f"<th>{words}</th>" in page, words
    tables = model_tables(wet)
    assert tables["pools"].loc["snow", "changed by"] == "snow_melt" and tables["parameters"].loc["interception.capacity", "bounds"] == "0 to 1"


def test_parameter_table_is_that_of_the_specification():
    table = MODEL.parameters
    assert table.learned.sum() == 36 == len(MODEL.learned)
    assert list(table.columns) == ["default", "lower", "upper", "unit", "timescale", "learned", "scope", "shape", "description"]
    assert tuple(table.loc["gpp_potential.eps_max", ["default", "lower", "upper", "unit"]]) == (2.0, 0.1, 5.0, "gC MJ-1")
    assert tuple(table.loc["turnover.soil_old", ["default", "unit", "timescale"]]) == (0.0045, "yr-1", "year")
    assert ((table.lower <= table.default) & (table.default <= table.upper)).all() and (table.description != "").all()


# bad input


def put(forcing, name, site, day, value):
    values = forcing[name].values.copy()
    values[site, day] = value
    return forcing.assign({name: forcing[name].copy(data=values)})


def attribute(forcing, **values):
    return forcing.assign({n: ("site", [v, *forcing[n].values[1:]]) for n, v in values.items()})


WITHOUT = xr.Dataset.drop_vars
BAD_FORCING = {
    "missing variable": (lambda f: WITHOUT(f, "rn"), "forcing lacks rn"),
    "wrong unit": (lambda f: f.assign(rg=f.rg.assign_attrs(units="W m-2")), "rg must be in MJ m-2 d-1.*'W m-2'"),
    "no unit": (lambda f: f.assign(rg=f.rg.drop_attrs()), "rg must be in MJ m-2 d-1.*None"),
    "NaN": (lambda f: put(f, "t_air", 1, 40, np.nan), "SITE1: t_air is NaN on 2001-02-10"),
    "infinite": (lambda f: put(f, "t_air", 1, 40, np.inf), "SITE1: t_air is infinite on 2001-02-10"),
    "negative rain": (lambda f: put(f, "precip", 1, 40, -1.0), "SITE1: precip is -1.0 mm d-1 on 2001-02-10"),
    "negative VPD": (lambda f: put(f, "vpd_day", 0, 3, -0.5), "SITE0: vpd_day is -0.5 kPa on 2001-01-04"),
    "duplicate dates": (lambda f: f.isel(time=[0, 1, 1, 2]), "consecutive days.*after 2001-01-02"),
    "unsorted dates": (lambda f: f.isel(time=[0, 1, 3, 2]), "consecutive days.*after 2001-01-02"),
    "hole in dates": (lambda f: f.isel(time=[0, 1, 2, 5, 6]), "consecutive days.*after 2001-01-03"),
    "leap day": (lambda f: f.isel(time=slice(0, 60)).assign_coords(time=pd.date_range("2004-01-01", periods=60)), "29 February"),
    "no forcing at a site": (lambda f: f.assign({n: f[n].where(f.site != f.site[1]) for n in FORCING}), "site SITE1 has no forcing"),
    "duplicate sites": (lambda f: f.isel(site=[0, 0, 1]), "duplicate sites.*SITE0"),
    "sand and clay above 1": (lambda f: attribute(f, sand=0.7, clay=0.6), "SITE0: sand 0.7.* and clay 0.6"),
    "nearly pure sand": (lambda f: attribute(f, sand=0.926, clay=0.006), "SITE0: sand 0.926"),
    "tree fraction": (lambda f: attribute(f, tree_fraction=1.2), "SITE0: tree_fraction is 1.2"),
    "plant form": (lambda f: attribute(f, plant_form="moss"), "SITE0: plant form 'moss'"),
    "no attribute": (lambda f: WITHOUT(f, "clay"), "lacks the site attributes clay"),
    "disturbance": (lambda f: put(f, "disturbance", 0, 5, 1.5), "SITE0: disturbance must lie between 0 and 1"),
}


@pytest.mark.parametrize("case", BAD_FORCING)
def test_bad_forcing_is_refused_by_name(forcing, case):
    change, message = BAD_FORCING[case]
    for i, site in enumerate(forcing.site.values):
        message = message.replace(f"SITE{i}", str(site))
    with pytest.raises(ValueError, match=message):
        simulate(MODEL, change(forcing), spinup="none")


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"gpp_potential.eps_mx": 1.0}, KeyError, "gpp_potential.eps_mx.*did you mean 'gpp_potential.eps_max'"),
        ({"gpp_potential.eps_max": 7.0}, ValueError, "gpp_potential.eps_max is 7.0 gC MJ-1; its bounds are 0.1 to 5"),
        ({"gpp_potential.eps_max": np.nan}, ValueError, "gpp_potential.eps_max is nan"),
        ({"wue.kappa": np.array([0.4, 0.9, *[0.4] * 6])}, ValueError, "wue.kappa is 0.9 kPa-1 at site {1}; its bounds are 0.06 to 0.7"),
        ({"wue.kappa": np.array([0.4, 0.5])}, ValueError, r"wue.kappa must be a scalar.*8 sites.*\(2,\)"),
        ({"wue.kappa": xr.DataArray([0.4], dims="site", coords={"site": ["XX-Foo"]})}, ValueError, "wue.kappa has no value for site {0}"),
    ],
)
def test_bad_parameters_are_refused_by_name(forcing, given, error, message):
    for i, site in enumerate(forcing.site.values):
        message = message.replace(f"{{{i}}}", str(site))
    with pytest.raises(error, match=message):
        simulate(MODEL, forcing, given, spinup="none")


def test_bad_options_are_refused(forcing):
    with pytest.raises(ValueError, match="spinup must be one of none, reference.*'referense'"):
        simulate(MODEL, forcing, spinup="referense")
    with pytest.raises(KeyError, match="unknown output.*gppp"):
        simulate(MODEL, forcing, spinup="none", outputs=["gppp"])
    with pytest.raises(ValueError, match="dtype.*float16"):
        simulate(MODEL, forcing, spinup="none", dtype="float16")
    kept = np.ones((SITES, 730), bool)
    kept[1, 300:] = False
    short = forcing.assign({n: forcing[n].where(xr.DataArray(kept, dims=("site", "time"))) for n in FORCING})
    with pytest.raises(ValueError, match=f"{forcing.site.values[1]} has only 300 days"):
        simulate(MODEL, short)
    assert simulate(MODEL, short, spinup="none", outputs="gpp").gpp.notnull().sum() == 300 + 730 * (SITES - 1)


def test_a_state_of_other_sites_or_broken_is_refused(forcing):
    state = sim(forcing).isel(site=[0, 1])
    with pytest.raises(ValueError, match=f"no site {forcing.site.values[2]}"):
        simulate(MODEL, forcing, state=state)
    two = forcing.isel(site=[0, 1])
    with pytest.raises(ValueError, match="lacks final_carbon"):
        simulate(MODEL, two, state=state.drop_vars("final_carbon"))
    broken = state.copy(deep=True)
    broken.final_carbon[1, 2] = np.nan
    with pytest.raises(ValueError, match=f"leaf = nan at site {forcing.site.values[1]}"):
        simulate(MODEL, two, state=broken)
    assert set(state.memory.values) == set(MEMORY)


def test_a_result_that_is_not_finite_names_site_and_day(forcing):
    wild = MODEL.replace(gpp_vpd=lambda vpd_day: 1 / (vpd_day - vpd_day))
    with pytest.raises(FloatingPointError, match=f"site {forcing.site.values[0]}: .* is not finite on 2001-01-01"):
        simulate(wild, forcing, spinup="none")


def test_default_parameters_are_scalars_per_site_values_are_kept(forcing):
    sites = [str(s) for s in forcing.site.values]
    by_label = xr.DataArray(np.arange(1.0, 3.0, 0.25), dims="site", coords={"site": sites[::-1]})
    values = complete_parameters(MODEL, {"gpp_potential.eps_max": by_label}, sites)
    assert values["gpp_potential.eps_max"].tolist() == np.arange(1.0, 3.0, 0.25)[::-1].tolist() and values["wue.kappa"] == 0.4


def test_no_negative_water_use_efficiency():
    from hybridecosys.model.simulate import check_parameters, complete_parameters

    air = xr.Dataset({"co2": (("site", "time"), [[360.0, 400.0], [420.0, 420.0]])}, coords={"site": ["a", "b"]})
    pole = complete_parameters(MODEL, {"wue.co2_base": 500.0, "wue.co2_sat": 170.0}, ["a", "b"])
    with pytest.raises(ValueError, match="site a.*co2_base 500.*co2_sat 170.*360 ppm"):
        check_parameters(MODEL, pole, air)
    check_parameters(MODEL, pole, air.sel(site=["b"]))


def blind_to_vpd(vpd_day, kappa):
    return 1 - 0 * kappa * vpd_day


def test_a_model_in_another_process_is_the_same_model():
    """So that it is compiled once there, however often it is sent."""
    import pickle

    model = wroasted().for_training()
    assert model.learned and model.processes  # cached
    assert pickle.loads(pickle.dumps(model)) == model
    changed = model.replace(gpp_vpd=blind_to_vpd)
    again = pickle.loads(pickle.dumps(changed))
    assert again != changed and [a.name for a in again.approaches] == [a.name for a in changed.approaches]
    assert again.parameters.equals(changed.parameters)
