"""Programs are compiled without optimisation here, in half the time: what tests run is short. (The notebooks are compiled as users' programs are.)

The files whose tests take longest come first: so two processes end at about the same time (see Makefile)."""

import os

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if QUICK not in (given := os.environ.get("XLA_FLAGS", "")):  # before JAX is imported, for the processes that tests start, too; what is set outside counts more
    os.environ["XLA_FLAGS"] = f"{QUICK} {given}".strip()
LONGEST = ("gradients", "model", "site", "learning", "experiment", "crossval", "neural", "interrupted", "greenness", "structure", "devices", "regrowth", "uncertainty", "cluster", "speed",
           "calibration", "cli", "tutorials")


def pytest_collection_modifyitems(items):
    place = {f"test_{name}.py": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
