"""What is timed: sites with made-up weather, the forward run, value and gradient of the cost, the spin-up; and the yardstick beside them."""

import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from hybridecosys.data.attributes import cover_fractions
from hybridecosys.data.cube import open_cube, real_data_path
from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.data.weather import synthetic_weather
from hybridecosys.learning.cost import Observed, output_names, site_costs, total_cost
from hybridecosys.model.devices import MALLOC_KEPT, lane_multiple, widen
from hybridecosys.model.inputs import Inputs, make_inputs
from hybridecosys.model.programs import VARIABLE
from hybridecosys.model.simulate import run
from hybridecosys.model.spinup import accelerated_spinup, bind, reference_spinup, relative_change
from hybridecosys.model.structure import wroasted

MODEL = wroasted("smooth")
CACHE = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")  # the programs of the package are kept below the first
TARGETS = ("gpp", "nee", "reco", "evapotranspiration", "transpiration", "ndvi", "agb")
OUTPUTS = output_names(TARGETS)


@cache
def _weather(sites: int, years: int):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cube = synthetic_weather(sites, years, seed=0)
        return prepare_forcing(cube.merge(cover_fractions(cube, greenness=False))).load()


def make_case(sites: int, years: int, dtype: str = "float32") -> tuple[dict, Inputs, Observed]:
    """Parameters (site,), inputs and observations; beyond 200 sites or ten years the weather repeats itself. Call where `dtype` is enabled."""
    inputs = make_inputs(_weather(min(sites, 200), min(years, 10)), np.dtype(dtype))
    lanes, blocks = np.arange(sites) % inputs.n_site, np.arange(years) % inputs.shape[0]
    part = lambda tree: jax.tree.map(lambda x: x[..., lanes], tree)
    forcing = {n: x[blocks] for n, x in part(inputs.forcing).items()}
    inputs = replace(inputs, forcing=forcing, attributes=part(inputs.attributes), season=part(inputs.season), first_year=part(inputs.first_year),
                     n_site=sites, shape=(years, 365, sites))
    rng = np.random.default_rng(0)
    values = {t: rng.gamma(2, 1, inputs.shape).astype(dtype) for t in TARGETS if t != "agb"}
    mask = {t: rng.random(inputs.shape) < 0.7 for t in values}
    spread = {t: (values[t].var((0, 1)) * mask[t].sum((0, 1))).astype(dtype) for t in values}
    observed = Observed(values, mask, spread, np.full(sites, 365 * years, dtype), np.full(sites, 5000, dtype))
    parameters = {n: jnp.full(sites, p.default, dtype) for n, p in MODEL.parameter_table.items()}
    return jax.tree.map(jnp.asarray, (parameters, inputs, observed))


def make_unequal(sites: int, years: int) -> tuple[dict, Inputs, int]:
    """Parameters and inputs of records of one to `years` years, packed as `simulate` packs them, and their true number of site-days."""
    data = _weather(sites, years)
    length = 365 * np.random.default_rng(0).integers(1, years + 1, sites)
    inside = xr.DataArray(np.arange(data.sizes["time"]) < length[:, None], dims=("site", "time"))
    inputs, _ = widen(make_inputs(data.assign({n: v.where(inside) for n, v in data.items() if "time" in v.dims}), np.float32), multiple=lane_multiple())
    parameters = {n: np.full(inputs.n_site, p.default, np.float32) for n, p in MODEL.parameter_table.items()}
    return *jax.tree.map(jnp.asarray, (parameters, inputs)), int(length.sum())


@jax.jit
def forward(parameters, inputs, observed):
    """The seven targets of every day, without spin-up."""
    return run(MODEL, parameters, inputs, "none", OUTPUTS)


@jax.jit
def gradient(parameters, inputs, observed):
    """Cost and its gradient with respect to the 36 learned parameters of each site, without spin-up."""
    def cost(learned):
        return total_cost(site_costs(run(MODEL, {**parameters, **learned}, inputs, "none", OUTPUTS)[1], observed, inputs)).sum()

    return jax.value_and_grad(cost)({n: parameters[n] for n in MODEL.learned})


@partial(jax.jit, static_argnames="kind")
def spinup(parameters, inputs, observed, kind):
    """State after the plain loop of 200 repetitions ("reference"), or the fast one ("accelerated")."""
    solve = {"reference": reference_spinup, "accelerated": accelerated_spinup}[kind]
    return solve(bind(MODEL, parameters, inputs).undisturbed, inputs)


def spinup_case(data: str, dtype: str) -> tuple[dict, Inputs] | None:
    """Parameters and inputs for a spin-up: "made" sites, the same with learned parameters "drawn" within their bounds, or all "real" ones (None without the cube)."""
    if data == "real":
        path = real_data_path()
        if path is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = jax.tree.map(jnp.asarray, make_inputs(prepare_forcing(open_cube(path)), np.dtype(dtype)))
        return {n: jnp.full(inputs.n_site, p.default, dtype) for n, p in MODEL.parameter_table.items()}, inputs
    parameters, inputs, _ = make_case(200, 10, dtype)
    if data == "drawn":
        rng, table = np.random.default_rng(1), MODEL.parameter_table
        parameters |= {n: jnp.asarray(rng.uniform(table[n].lower, table[n].upper, 200), dtype) for n in MODEL.learned}
    return parameters, inputs


def agreement(state: dict, truth: dict, within: float = 1e-3) -> float:
    """Share of sites at which no pool differs from `truth` by more than a fraction of it (of `FLOOR`, where it holds less)."""
    return float((relative_change(MODEL.plan(), truth, state) < within).mean())


def yardstick(sites: int, years: int) -> float | None:
    """Site-days per second of the hand-written C beside the project's data; None where it is absent or cannot be compiled."""
    path = real_data_path("bench/yardstick.py")
    if path is None:
        return None
    done = subprocess.run([sys.executable, str(path), str(sites), str(365 * years)], capture_output=True, text=True)
    found = re.search(r"([\d.]+) million site-days", done.stdout)
    return 1e6 * float(found[1]) if found else None


def child(code: str, cache_dir: str | None = None) -> dict:
    """Run `code` in a fresh process that imports this module as `cases`; the last line it prints is JSON."""
    env = {k: v for k, v in os.environ.items() if k not in (*CACHE, VARIABLE)} | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    env |= {name: str(value) for name, value in MALLOC_KEPT.items()}
    env |= dict(zip(CACHE, (cache_dir, "0"))) if cache_dir is not None else {VARIABLE: "no"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])
