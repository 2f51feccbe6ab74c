"""A package that was just installed, away from its checkout: command, import, the main job, a file of one's own, a sample that ships."""

import importlib.util
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

started, work = time.perf_counter(), time.process_time()
import hybridecosys as he  # noqa: E402

took, work = time.perf_counter() - started, time.process_time() - work
home = Path(he.__file__).parent
assert "site-packages" in home.parts, f"{home} is a checkout, not an installation"
assert he.__version__ == version("hybridecosys")
assert work < 2, f"the import takes {work:.1f} s of processor time"
assert not {"jax", "pandas", "matplotlib"} & set(sys.modules), "the import is not light"
print(f"hybridecosys {he.__version__} imported in {took:.2f} s from an installation")

for name in (*he.__all__, "plot"):
    getattr(he, name)
assert importlib.util.find_spec("pytest") is None and importlib.util.find_spec("nbdev") is None, "packages of development are here: nothing is shown by this"

from hybridecosys.data.fluxnet import sample_site  # noqa: E402

forcing = he.prepare_forcing(sample_site())
run = he.simulate(he.wroasted(), forcing, spinup="none")
assert bool(run.gpp.notnull().any()) and float(abs(run.water_balance).max()) < 1e-3
print("the sample that ships:", dict(run.sizes))

command = Path(sys.executable).with_name("hybridecosys")
with tempfile.TemporaryDirectory() as folder:
    out = Path(folder) / "run"
    small = "--n-sites 8 --years 2 --epochs 1 --spinup none".split()
    subprocess.run([command, "--help"], check=True, capture_output=True, cwd=folder)
    subprocess.run([command, "train", "--out", out, *small], check=True, cwd=folder)
    assert (out / "report.html").stat().st_size > 10_000 and (out / "scores.csv").exists()
print("the command has trained, evaluated and reported")
