"""How fast: `make bench`. Every figure of the day loop carries the yardstick's, measured just before and after it, and the ratio."""

import subprocess
import sys
import time
import timeit
from pathlib import Path

import cases
import jax
import numpy as np
import pytest

from hybridecosys.data.cube import real_data_path


def measure(benchmark, function, sites, days, rounds=5):
    """Time a function after one call that compiles it, the yardstick on both sides of it."""
    jax.block_until_ready(function())
    before = cases.yardstick(sites, 10) if days else None
    benchmark.pedantic(lambda: jax.block_until_ready(function()), rounds=rounds, iterations=1)
    after = cases.yardstick(sites, 10) if days else None
    if days:
        benchmark.extra_info["site_days_per_second"] = speed = sites * days / benchmark.stats.stats.min
    if before and after:
        benchmark.extra_info |= {"yardstick": max(before, after), "ratio_to_yardstick": speed / max(before, after)}
    if days:
        print(f"\n{benchmark.name}: {benchmark.extra_info}")


@pytest.mark.parametrize("kind", ["forward", "gradient"])
def test_day_loop(benchmark, sites, years, dtype, kind):
    with jax.enable_x64(dtype == "float64"):
        arguments = cases.make_case(sites, years, dtype)
        measure(benchmark, lambda: getattr(cases, kind)(*arguments), sites, 365 * years)


@pytest.mark.parametrize("kind", ["reference", "accelerated"])
def test_spinup(benchmark, sites, years, dtype, kind):
    if years == 40 and sites == 1000:
        pytest.skip("two spin-ups of 1,000 sites x 40 years say what 10 years say")
    with jax.enable_x64(dtype == "float64"):
        arguments = cases.make_case(sites, years, dtype)
        measure(benchmark, lambda: cases.spinup(*arguments, kind=kind), sites, 0, rounds=3 if kind == "reference" else 10)  # the least of them counts


@pytest.mark.parametrize("data", ["made", "drawn", "real"])
def test_spinup_agreement(benchmark, data):
    """Share of sites at which all pools lie within 0.1 % of the plain loop: the accelerated spin-up's, and, as what rounding allows, the loop's own in float64."""
    with jax.enable_x64(True):
        case = cases.spinup_case(data, "float64")
        if case is None:
            pytest.skip("fluxnet/fluxnet2015_daily.nc is not in the data folder")
        exact = jax.block_until_ready(cases.spinup(*case, None, kind="reference"))
        exact = jax.tree.map(lambda x: np.asarray(x, float), exact)
    case = cases.spinup_case(data, "float32")
    loop = cases.spinup(*case, None, kind="reference")
    ours = benchmark.pedantic(lambda: jax.block_until_ready(cases.spinup(*case, None, kind="accelerated")), rounds=1, warmup_rounds=1)
    benchmark.extra_info |= {"within_0.1_percent": cases.agreement(ours, loop), "within_1_percent": cases.agreement(ours, loop, 1e-2),
                             "loop_in_float64_within_0.1_percent": cases.agreement(loop, exact)}
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


def test_unequal(benchmark):
    """A forward run of 200 records of one to ten years, against as many site-days of equal records on as many lanes."""
    parameters, inputs, true = cases.make_unequal(200, 10)
    blocks, _, lanes = inputs.shape
    equal = cases.make_case(lanes, blocks)
    measure(benchmark, lambda: cases.forward(parameters, inputs, None), 200, 0, rounds=7)
    run = lambda: jax.block_until_ready(cases.forward(*equal))
    run()
    per_day = min(timeit.repeat(run, number=1, repeat=7)) / (lanes * blocks * 365)
    benchmark.extra_info |= {"lanes": lanes, "true_site_days": true, "cost_of_a_true_site_day": benchmark.stats.stats.min / true / per_day}
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


COMPILE = """
import time, json, jax, cases
arguments = cases.make_case(200, 10)
begin = time.perf_counter()
cases.{kind}.lower(*arguments).compile()
print(json.dumps({{"seconds": time.perf_counter() - begin}}))
"""


@pytest.mark.parametrize("kind", ["forward", "gradient"])
def test_compile(benchmark, tmp_path, kind):
    code = COMPILE.format(kind=kind)
    cold = cases.child(code, str(tmp_path))["seconds"]
    warm = benchmark.pedantic(lambda: cases.child(code, str(tmp_path))["seconds"], rounds=1)
    benchmark.extra_info |= {"cold_seconds": cold, "warm_seconds": warm}
    print(f"\ncompile {kind}: cold {cold:.1f} s, second process {warm:.1f} s")


FIRST = """
import json, time
import hybridecosys as he

def spent(work):
    before = time.process_time()
    return work(), time.process_time() - before

cube = he.synthetic_cube(n_sites=6, years=2, seed=0)
model, hybrid = he.wroasted(), he.HybridModel(he.wroasted(), features=["igbp", "bioclim"], seed=0)
_, run = spent(lambda: he.simulate(model, he.prepare_forcing(cube)))
_, fit = spent(lambda: hybrid.fit(cube.isel(site=slice(0, 4)), cube.isel(site=slice(4, 5)), epochs=2, progress=False))
he.evaluate(hybrid.simulate(cube.isel(site=slice(5, 6))), cube.isel(site=slice(5, 6)), scales=["daily"])
print(json.dumps({"simulate": run, "fit": fit, "all": time.process_time()}))
"""


def test_first_result(benchmark, tmp_path):
    """Processor time of the README's ten lines with nothing compiled before, and in a second process."""
    cold = cases.child(FIRST, str(tmp_path))
    warm = benchmark.pedantic(lambda: cases.child(FIRST, str(tmp_path)), rounds=1)
    benchmark.extra_info |= {f"cold_{k}": v for k, v in cold.items()} | {f"warm_{k}": v for k, v in warm.items()}
    print(f"\nthe README's ten lines, processor time: {cold['all']:.0f} s, in a second process {warm['all']:.0f} s (simulate {warm['simulate']:.1f} s, fit {warm['fit']:.1f} s)")


MEMORY = """
import json, re, jax, cases
arguments = cases.make_case(200, {years})
jax.block_until_ready(cases.gradient(*arguments))
peak = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())  # of this program alone; ru_maxrss begins with what its parent had
print(json.dumps({{"peak": int(peak[1]) / 1024**2,
                   "temporaries": cases.gradient.lower(*arguments).compile().memory_analysis().temp_size_in_bytes / 1024**3}}))
"""


@pytest.mark.parametrize("years", [10, 20, 40])
def test_memory_of_the_gradient(benchmark, years):
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak memory of a process is read from /proc")
    found = benchmark.pedantic(lambda: cases.child(MEMORY.format(years=years)), rounds=1)
    benchmark.extra_info |= {"peak_gib": found["peak"], "temporaries_gib": found["temporaries"]}
    print(f"\nmemory of 200 sites x {years} years: {found}")


def test_epoch(benchmark):
    """One epoch on all sites of the real cube, spin-up included: a fifth of the difference of fits of one and of six epochs, both compiled."""
    import hybridecosys as he

    path = real_data_path("fluxnet/fluxnet2015_daily.nc")
    if path is None:
        pytest.skip("fluxnet/fluxnet2015_daily.nc is not in the data folder")
    cube, model = he.open_cube(path), he.wroasted()

    def fit(epochs):
        begin = time.perf_counter()
        he.HybridModel(model, features=["igbp", "bioclim"]).fit(cube, epochs=epochs, progress=False)
        return time.perf_counter() - begin

    fit(1)
    one = fit(1)
    six = benchmark.pedantic(lambda: fit(6), rounds=1)
    benchmark.extra_info["epoch_seconds"] = (six - one) / 5
    print(f"\none epoch on {cube.sizes['site']} sites: {(six - one) / 5:.2f} s")


def test_start_of_the_command(benchmark):
    command = Path(sys.executable).with_name("hybridecosys")
    benchmark.pedantic(lambda: subprocess.run([command, "--help"], check=True, capture_output=True), rounds=5, warmup_rounds=1)
