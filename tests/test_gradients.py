"""Gradients of the training cost: finite at every site, whatever the parameters and the spin-up, and those of the function that is computed."""

import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import hybridecosys as he
from hybridecosys.learning.cost import total_cost
from hybridecosys.learning.batches import make_training_data
from hybridecosys.learning.step import simulate_costs, site_gradients
from hybridecosys.model.inputs import take_sites
from hybridecosys.model.spinup import SPINUPS
from hybridecosys.processes import soil_hydraulics

MODEL = he.wroasted().for_training()
REAL = Path(__file__).resolve().parents[2] / "shared" / "fluxnet" / "fluxnet2015_daily.nc"
SANDY = ["US-UMB", "FR-LBr", "BE-Bra", "AU-Stp", "DE-Akm", "AU-Cpr", "AU-Gin", "DK-Fou", "IT-BCi"]  # where gradients were not finite once
SETS = {"none": 31, "accelerated": 31, "reference": 4, "equilibrium": 4}  # the long spin-ups were passed once with all 31
OPTIMISED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}  # for what runs longer than it compiles (see conftest.py)
LANES = 40  # both cubes in one compiled shape


def two_years(cube: xr.Dataset, sites: list[str] | None = None) -> tuple[xr.Dataset, xr.Dataset]:
    """Forcing and observations of two years of each site, on one time axis."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cube = cube if sites is None else cube.sel(site=sites)
        sites = he.prepare(cube, on_gap="longest")
    seen = sites.observed().drop_vars("agb", errors="ignore")
    sites = sites.select([name for name, days in zip(sites.names, sites.record[1]) if days >= 730]).best_years(2, seen)
    forcing, start = sites.forcing, sites.record[0]
    days = [slice(int(s), int(s) + 730) for s in start]
    time = forcing.time[:730]
    def joined(data):
        return xr.concat([data.isel(site=[i], time=d).assign_coords(time=time) for i, d in enumerate(days)], "site")

    return joined(forcing), joined(seen.sel(site=forcing.site).reindex(time=forcing.time))


def drawn(sites: int, rng: np.random.Generator, sets: int = 1) -> dict[str, np.ndarray]:
    """Learned parameters of `sets` sets at all sites, the first of them the defaults, name -> (set * site,)."""
    table = {n: MODEL.parameter_table[n] for n in MODEL.learned}
    return {n: np.concatenate([np.full(sites, p.default), rng.uniform(p.lower, p.upper, (sets - 1) * sites)]) for n, p in table.items()}


@pytest.fixture(scope="module")
def pools():
    made = {"made up": make_training_data(*two_years(he.synthetic_cube(n_sites=32, years=2, seed=0)), packed=False)}
    if REAL.exists():
        cube = he.open_cube(REAL)
        names = [str(s) for s in cube.site.values]
        others = [s for s in names[::3] if s not in SANDY]
        forcing, seen = two_years(cube, [*SANDY, *others])
        kept = forcing.site.values[:LANES]
        made["real"] = make_training_data(forcing.sel(site=kept), seen.sel(site=kept), packed=False)
    return made


@pytest.mark.parametrize("spinup", SPINUPS)
def test_finite_everywhere(pools, spinup):
    """32 made-up and 40 real sites, defaults and 30 random sets each, in float32; a pool that oscillates would show as a gradient of many orders of magnitude."""
    gradient = jax.jit(lambda learned, inputs, seen: site_gradients(MODEL, learned, inputs, seen, spinup, {}), compiler_options=OPTIMISED)
    for where, pool in pools.items():
        n, sets = len(pool.sites), SETS[spinup]
        rows = np.tile(np.resize(np.arange(n), LANES), sets)
        learned = {k: v.astype(np.float32) for k, v in drawn(LANES, np.random.default_rng(0), sets).items()}
        costs, slopes = gradient(learned, take_sites(pool.inputs, rows), take_sites(pool.observed, rows))
        size = np.stack([np.abs(slopes[k]) * (MODEL.parameter_table[k].upper - MODEL.parameter_table[k].lower) for k in learned])
        broken = ~np.isfinite(size).all(0) | ~np.isfinite(total_cost(costs))
        assert not broken.any(), f"{where}, {spinup}: {[(pool.sites[rows[i]], i // LANES) for i in np.flatnonzero(broken)]}"
        assert (size.max(0) > 0).all() and (size > 0).any(1).sum() >= len(learned) - 2 * (spinup == "none")
        allowed = {"reference": 0.01, "accelerated": 0}.get(spinup, 0.002)  # through the accelerated one they were up to 30,000 before its jumps were limited
        assert np.mean(size.max(0) > (1e3 if spinup == "accelerated" else 1e4)) <= allowed, (where, np.sort(size.max(0))[-5:])


def test_no_day_grows_without_bound(pools):
    """Without any spin-up, two years of sandy soil once grew by ninety orders of magnitude on the way back, and wet ones where drainage is steepest by ten."""
    gradient = jax.jit(lambda learned, inputs, seen: site_gradients(MODEL, learned, inputs, seen, "none", {})[1])
    for pool in pools.values():
        learned = {k: v[: len(pool.sites)].astype(np.float32) for k, v in drawn(len(pool.sites), np.random.default_rng(0)).items()}
        for exponent in (MODEL.parameter_table["drainage.exponent"].default, MODEL.parameter_table["drainage.exponent"].upper):
            slopes = gradient({**learned, "drainage.exponent": np.full(len(pool.sites), exponent, np.float32)}, pool.inputs, pool.observed)
            assert max(float(np.abs(slopes[k]).max() * (MODEL.parameter_table[k].upper - MODEL.parameter_table[k].lower)) for k in learned) < 1e3


def test_water_of_a_day_never_overshoots():
    """A mm more in any layer leaves the column no drier anywhere after drainage and recharge, whatever soil, water and exponents: so no product of days can grow."""
    rng, n = np.random.default_rng(0), 200
    sand, clay = rng.dirichlet((1, 1, 1), 4 * n)[:, :2].T
    kept = (sand < 0.9) & (clay < 0.55) & (clay > 0.02)
    sand, clay = (jnp.asarray(x[kept][:n], jnp.float32) for x in (sand, clay))
    w_sat, w_fc, _, beta, _, _ = soil_hydraulics.pedotransfer(sand, clay)
    soil = jnp.stack(w_sat, -1) * rng.uniform(0.3, 1, (len(sand), 4)).astype(np.float32)
    exponents = [jnp.asarray(rng.uniform(p.lower, p.upper, len(sand)), jnp.float32) for p in (MODEL.parameter_table[f"{name}.exponent"] for name in ("drainage", "recharge"))]

    def evening(model, soil, w_sat, w_fc, beta, drainage, recharge):
        soil = model.processes["drainage"](tuple(soil), w_sat, w_fc, beta, drainage)
        soil, groundwater, _ = model.processes["recharge"](soil, 0.0, w_sat, beta, recharge)
        return jnp.stack([*soil, groundwater])

    slope = {name: jax.jit(jax.vmap(jax.jacfwd(partial(evening, model))))(soil, w_sat, w_fc, beta, *exponents) for name, model in (("published", he.wroasted()), ("twin", MODEL))}
    assert slope["published"].min() < -5  # what the twins are for
    assert slope["twin"].min() > -1e-4
    for s in slope.values():
        np.testing.assert_allclose(s.sum(1), 1, atol=1e-4)  # no water is lost


def test_last_leaves_in_float32():
    """The light that the last leaves of a dying stand catch is no rounded difference, which would be 0 where its derivative is not."""
    leaf = jnp.logspace(-30, 3, 100, dtype=jnp.float32)
    observed = partial(he.wroasted(greenness="observed").processes["leaf_fapar"], vegetation_fraction=1.0, fapar=0.0, k_extinction=0.005)
    for approach in (partial(MODEL.processes["fapar"], vegetation_fraction=1.0, k_extinction=0.005), observed):
        caught, slope = jax.jit(jax.vmap(jax.value_and_grad(lambda leaf, approach=approach: approach(leaf)[0])))(leaf)
        np.testing.assert_allclose(caught, -np.expm1(-0.005 * np.asarray(leaf, np.float64)), rtol=1e-5)
        np.testing.assert_allclose(slope[leaf < 1], (caught / leaf)[leaf < 1], rtol=1e-2)


def test_equal_to_central_differences(pools):
    """In float64, along a random direction in the space of all parameters, at all made-up sites; a quotient counts where two steps agree (the model has kinks)."""
    table = {n: MODEL.parameter_table[n] for n in MODEL.learned}
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64) if np.asarray(x).dtype == np.float32 else x, tree)
        inputs, seen = wide(pools["made up"].inputs), wide(pools["made up"].observed)
        n, rng = len(pools["made up"].sites), np.random.default_rng(1)
        at = {k: np.clip(p.default + 0.1 * (p.upper - p.lower) * rng.normal(size=n), p.lower, p.upper) for k, p in table.items()}
        way = {k: (p.upper - p.lower) * rng.normal(size=n) for k, p in table.items()}
        cost = jax.jit(lambda h: total_cost(simulate_costs(MODEL, {k: at[k] + h * way[k] for k in at}, inputs, seen, "accelerated")))
        exact = jax.jit(lambda: site_gradients(MODEL, {k: jnp.asarray(v) for k, v in at.items()}, inputs, seen, "accelerated", {}, bounded=False)[1])()
        exact = sum(np.asarray(exact[k]) * way[k] for k in way)
        quotient = np.array([np.asarray((cost(h) - cost(-h)) / (2 * h)) for h in (1e-6, 1e-7, 1e-8)])
    scale = np.maximum(np.abs(quotient).max(0), 1e-3)
    apart = np.abs(np.diff(quotient, axis=0)) / scale
    steady = apart.min(0) < 1e-4
    best = np.where(apart[0] < apart[1], quotient[0], quotient[1])
    assert steady.mean() > 0.6, apart
    assert (np.abs(exact - best) / scale)[steady].max() < 1e-3, (exact, quotient)
