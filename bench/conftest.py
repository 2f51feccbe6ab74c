"""Options of the benchmark: the default subset, or the whole matrix. Freed memory is kept, as the command does."""

from hybridecosys.model.devices import keep_memory

keep_memory()


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="8, 32, 200, 1000 sites x 1, 10, 40 years x float32, float64, instead of the default subset")


def pytest_generate_tests(metafunc):
    if "sites" in metafunc.fixturenames:
        full = [(s, y, d) for s in (8, 32, 200, 1000) for y in (1, 10, 40) for d in ("float32", "float64")]
        subset = [(32, 10, "float32"), (200, 10, "float32"), (200, 10, "float64"), (1000, 1, "float32")]
        metafunc.parametrize("sites, years, dtype", full if metafunc.config.getoption("--full") else subset)


def pytest_benchmark_update_machine_info(config, machine_info):
    import os

    import jax

    machine_info["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine_info["jax"], machine_info["device"] = jax.__version__, str(jax.devices()[0])
    machine_info.pop("node", None)
