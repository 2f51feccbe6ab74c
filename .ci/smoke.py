"""A package that was just installed, away from its checkout: command, import, the main job, a file of one's own, a sample that ships."""

import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

started = time.perf_counter()
import hybridecosys as he  # noqa: E402

took = time.perf_counter() - started
home = Path(he.__file__).parent
assert "site-packages" in home.parts, f"{home} is a checkout, not an installation"
assert he.__version__ == version("hybridecosys")
print(f"hybridecosys {he.__version__} imported in {took:.2f} s from an installation")

for name in he.__all__:
    getattr(he, name)

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
