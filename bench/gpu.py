"""On a GPU, or whatever device JAX has: are the results right, and how fast does it run?

    python bench/gpu.py gpu.json [--seconds 300] [--only golden agreement ...] [--small]

Parity with the golden trajectories, value and gradient against the CPU of the same machine, time and memory of the cases of `cases.py` for growing
numbers of lanes, a grid of 240,000 cells, an epoch of training. Seven daily targets, float32. The JSON is written anew after
each measurement; one that fails is recorded with its error, and none is begun after `--seconds`. The golden file and the real cube come from the data
folder (`HYBRIDECOSYS_DATA`). Peak memory is that of the process so far, arguments of the case before
included: what a program needs is its arguments, outputs and temporaries. The cases after the first three are compiled side by side, so the time that
took says little of one alone.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache, partial
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

import hybridecosys as he
from hybridecosys.data.cube import real_data_path
from hybridecosys.model.inputs import take_sites
from hybridecosys.model.simulate import run
from hybridecosys.model.structure import FORCING


def machine() -> dict:
    """The device and what drives it."""
    device = jax.devices()[0]
    smi = subprocess.run("nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader", shell=True, capture_output=True, text=True).stdout.strip()
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {"device": device.device_kind, "platform": device.platform, "nvidia_smi": smi, "cpu": cpu, "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__, "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


class Report:
    """Measurements by name, in a file from the first on."""

    def __init__(self, path: str, seconds: float, only: list[str]):
        self.path, self.until, self.only = Path(path), time.monotonic() + seconds, only
        self.results = {"machine": machine()}

    def wanted(self, name: str) -> bool:
        return not self.only or any(f"{name} ".startswith(f"{o} ") for o in self.only)

    def left(self) -> float:
        return self.until - time.monotonic()

    def add(self, name: str, measure) -> None:
        """Measure and write, whatever happens; not after the time is over."""
        if not self.wanted(name):
            return
        begin = time.monotonic()
        try:
            found = {"skipped": "no time left"} if self.left() < 0 else measure()
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"[:1500], "where": traceback.format_exc()[-1500:]}
        self.results[name] = {**found, "took_s": round(time.monotonic() - begin, 2)}
        self.path.write_text(json.dumps(self.results, indent=1))
        print(name, json.dumps({k: v for k, v in self.results[name].items() if k != "where"}), flush=True)


# are the results right


def golden() -> dict:
    """Largest difference from the golden trajectories relative to the range of the output, of the water balance (mm), and of the final pools."""
    truth = xr.open_dataset(real_data_path("golden/wroasted.nc")).load()
    forcing = truth[[*FORCING]].rename(case="site", day="time").assign_coords(time=pd.date_range("2001-01-01", periods=truth.sizes["day"]))
    for name, unit in FORCING.items():
        forcing[name].attrs["units"] = unit
    forcing = forcing.merge(truth[["sand", "clay", "tree_fraction", "vegetation_fraction", "plant_form"]].rename(case="site"))
    parameters = {str(n): truth.parameters.sel(parameter=n).values for n in truth.parameter.values}
    found = {}
    for dtype in ("float64", "float32"):
        ours = he.simulate(he.wroasted(), forcing, parameters, spinup="none", dtype=dtype)
        off, balance = {}, float(np.abs(ours.water_balance - truth.out_water_balance.rename(case="site", day="time").values).max())
        for name in [str(n)[4:] for n in truth.data_vars if str(n).startswith("out_") and n != "out_water_balance"]:
            values = truth[f"out_{name}"].values
            span = np.maximum(np.ptp(values, axis=1), 1.0 if name == "gpp_f_soil_water" else 0.0)  # constant where it is never dry
            off[name] = float((np.abs(ours[name].values - values).max(1) / span).max())
        pools = max(float((np.abs(ours[k].values - truth[k].values) / np.maximum(np.abs(truth[k].values), 1e-3)).max()) for k in ("final_water", "final_carbon"))
        worst = max(off, key=off.get)
        found[dtype] = {"largest": off[worst], "of": worst, "water_balance_mm": balance, "final_pools": pools}
    return found


def agreement(sites: int = 200) -> dict:
    """Cost, gradient and spun-up state here and on the CPU: the largest difference relative to the largest at any site, from the CPU's in float64."""
    def results(device, dtype):
        with jax.default_device(device), jax.enable_x64(dtype == "float64"):
            case = cases.make_case(sites, 1, dtype)
            cost, slope = cases.gradient(*case)
            state = cases.spinup(*case, kind="accelerated")
            return jax.tree.map(partial(np.asarray, dtype=float), {"cost": {"": cost}, "gradient": slope, "spun_up": state, "outputs": cases.forward(*case)[1]})

    here, cpu = jax.devices()[0], jax.devices("cpu")[0]
    truth, found = results(cpu, "float64"), {}
    elsewhere = [] if here == cpu else [("here_float64", here, "float64"), ("here_float32", here, "float32")]
    for name, device, dtype in (*elsewhere, ("cpu_float32", cpu, "float32")):
        ours = results(device, dtype)
        for kind, values in truth.items():
            least = 1e-6 * max(np.abs(v).max() for v in values.values())  # a slope that is 0 but for rounding has no relative error
            off = {n: float(np.abs(ours[kind][n] - v).max() / max(np.abs(v).max(), least)) for n, v in values.items()}
            worst = max(off, key=lambda n: np.inf if np.isnan(off[n]) else off[n])
            found[f"{kind}_{name}"] = {"largest": off[worst], "of": worst, "median": statistics.median(off.values())}
    return found


# how fast


@jax.jit
def spun_up(parameters, inputs, observed):
    """The seven targets of every day, after the accelerated spin-up."""
    return run(cases.MODEL, parameters, inputs, "accelerated", cases.OUTPUTS)


KINDS = {"forward": cases.forward, "gradient": cases.gradient, "spun_up": spun_up, **dict.fromkeys(("accelerated", "reference"), cases.spinup)}


def day_steps(kind: str, years: int) -> int:
    """Days that a kind of run simulates one after another; the accelerated spin-up 27 years after all years and their mean, the reference 200."""
    spun = {"accelerated": years + 28, "reference": years + 201, "spun_up": 2 * years + 28}
    return 365 * spun.get(kind, years)


def repeat(few, sites: int):
    """A case with its sites repeated."""
    parameters, inputs, observed = few
    lanes = jnp.arange(sites) % inputs.n_site
    return {n: p[lanes] for n, p in parameters.items()}, take_sites(inputs, lanes), None if observed is None else take_sites(observed, lanes)


_few = lru_cache(cases.make_case)


@lru_cache(maxsize=1)
def _many(sites: int, years: int, observed: bool):
    few = _few(min(sites, 200), years)
    return repeat(few if observed else (*few[:2], None), sites)


def peak() -> float | None:
    """Largest device memory in use since the process began (GB)."""
    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] / 1e9 if stats else None


def build(kind: str, sites: int, years: int):
    """The compiled function of a kind and size, and how long that took."""
    few = _few(min(sites, 200), years)
    shapes = jax.eval_shape(partial(repeat, sites=sites), few if kind == "gradient" else (*few[:2], None))
    begin = time.perf_counter()
    lowered = KINDS[kind].lower(*shapes, **({"kind": kind} if KINDS[kind] is cases.spinup else {}))
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    return compiled, {"trace_s": middle - begin, "compile_s": end - middle}


def speed(kind: str, sites: int, years: int, ready=None, rounds: int = 5) -> dict:
    """Median time of some runs, also for each site-day and each day simulated, and memory. ready: what `build` has given, where it has been called."""
    compiled, took = build(kind, sites, years) if ready is None else ready.result(timeout=0)
    arguments, seconds = _many(sites, years, kind == "gradient"), []
    jax.block_until_ready(arguments)
    for _ in range(rounds + 1):
        if sum(seconds) > 10:
            break
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - begin)
    first, *later = seconds
    time_of_one, memory, steps = statistics.median(later or seconds), compiled.memory_analysis(), day_steps(kind, years)
    return {"seconds": time_of_one, "least_s": min(seconds), "most_s": max(later or seconds), "first_s": first, **took, "steps": steps,
            "us_per_day_step": 1e6 * time_of_one / steps, "site_days_per_second": sites * 365 * years / time_of_one,
            "simulated_site_days_per_second": sites * steps / time_of_one, "arguments_GB": memory.argument_size_in_bytes / 1e9,
            "outputs_GB": memory.output_size_in_bytes / 1e9, "temporaries_GB": memory.temp_size_in_bytes / 1e9, "peak_so_far_GB": peak()}


def epoch(small: bool) -> dict:
    """An epoch on all sites of the real cube (made-up ones where it is absent), at most five years each, in one batch; fits of one and of four, after a first."""
    path = None if small else real_data_path()
    cube = he.open_cube(path) if path else he.synthetic_cube(n_sites=6, years=2, spinup="none")
    model = he.wroasted()

    def fit(epochs):
        begin = time.perf_counter()
        hybrid = he.HybridModel(model, features=["igbp", "bioclim"]).fit(cube, epochs=epochs, batch_size=cube.sizes["site"], max_years=5, progress=False)
        return time.perf_counter() - begin, [float(x) for x in hybrid.losses.loss[:3]]

    (first, losses), (one, _), (four, _) = fit(1), fit(1), fit(4)
    return {"sites": cube.sizes["site"], "real": path is not None, "first_fit_s": first, "one_epoch_fit_s": one, "epoch_s": (four - one) / 3, "first_losses": losses,
            "peak_so_far_GB": peak()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="JSON to write")
    parser.add_argument("--seconds", type=float, default=300, help="begin nothing after so many")
    parser.add_argument("--compiling", type=float, default=120, help="seconds to wait for the larger cases, which are compiled side by side")
    parser.add_argument("--only", nargs="+", default=[], help="what to measure: names, or whole words that they begin with")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    options = parser.parse_args()
    report = Report(options.path, options.seconds, options.only)
    base, sizes, cells = (1000, 1), [(65_536, 1), (10_000, 10), (65_536, 10), (200, 10), (1000, 10)], [(240_000, 1), (240_000, 5)]
    if options.small:
        base, sizes, cells = (8, 1), [(16, 1)], [(24, 1)]
    name = lambda kind, sites, years: f"{kind} {sites} x {years}"
    kinds = ("forward", "accelerated", "gradient")

    report.add("golden", golden)
    for kind in kinds:
        report.add(name(kind, *base), partial(speed, kind, *base))
    todo = [(kind, *size) for size in sizes for kind in kinds] + [("spun_up", *size) for size in cells]
    pool = ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) // 2))
    ready = {case: pool.submit(build, *case) for case in todo if report.wanted(name(*case))}
    wait(ready.values(), timeout=max(0, min(options.compiling, report.left())))
    for case in ready:
        report.add(name(*case), partial(speed, *case, ready=ready[case]))
    pool.shutdown(wait=False, cancel_futures=True)
    report.add("epoch", partial(epoch, options.small))
    report.add("agreement", partial(agreement, 8 if options.small else 200))
    report.add(name("reference", *base), partial(speed, "reference", *base))


if __name__ == "__main__":
    main()
