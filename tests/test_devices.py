"""Four devices give what one gives: a run of the large model and trainings of the small one, with records of one length and of several. In processes of their own, where a CPU is four."""

import os
import subprocess
import sys

import jax
import pytest

from hybridecosys.model.devices import lane_devices, share_out

SETUP = '''
import warnings
import jax, numpy as np, xarray as xr
from flax import nnx
from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.learning.hybrid import HybridModel
from hybridecosys.learning.network import NetworkOptions
from hybridecosys.learning.together import fit_together
from hybridecosys.model.bucket import bucket
from hybridecosys.model.devices import lane_devices
from hybridecosys.model.simulate import simulate
from hybridecosys.model.structure import FORCING, wroasted
from hybridecosys.model.twin import synthetic_cube

warnings.simplefilter("ignore")
assert len(lane_devices()) == 4
cube = synthetic_cube(n_sites=7, years=2, spinup="none")
years = np.array([[2], [1], [2], [1], [1], [2], [1]])
inside = xr.DataArray(np.arange(cube.sizes["time"]) < 365 * years, dims=("site", "time"))
uneven = cube.assign({n: v.where(inside).assign_attrs(v.attrs) for n, v in cube.data_vars.items() if v.dims == ("site", "time")})

def both(do):
    """What `do` gives on all devices, and on one."""
    many = do()
    with jax.default_device(jax.devices()[0]):
        assert len(lane_devices()) == 1
        return many, do()

def close(many, one, rtol=1e-4, atol=1e-6):
    np.testing.assert_allclose(many, one, rtol=rtol, atol=atol)

def same_training(many, one):
    close(many.losses.loss, one.losses.loss, 1e-3, 1e-5)
    assert list(many.losses.target) == list(one.losses.target) and many.losses.epoch.max() > 1
    first = HybridModel(bucket(), many.features, seed=many.seed, spinup="none", network=NET)
    first.learn_features(cube)
    moved = 0
    for a, b, c in zip(*(jax.tree.leaves(nnx.state(h.network, nnx.Param)) for h in (many, one, first))):
        close(a, b, 0, 1e-4)
        moved = max(moved, float(abs(b - c).max())) if b.shape == c.shape else moved
    assert moved > 1e-2, moved

NET = NetworkOptions(hidden=8, layers=1, dropout=0.2)
OPTIONS = dict(epochs=3, learning_rate=0.01, noise=0.1, progress=False)
def new(seed, features=("igbp", "bioclim")):
    return HybridModel(bucket(), list(features), seed=seed, spinup="none", network=NET)
'''
CASES = {
    "run": '''
import re
from hybridecosys.model import simulate as module
from hybridecosys.model.devices import share_out, widen
from hybridecosys.model.inputs import make_inputs
eps, outputs = {"gpp_potential.eps_max": np.linspace(1, 3, 7)}, ["gpp", "evapotranspiration", "soil_old"]
many, one = both(lambda: simulate(wroasted(), prepare_forcing(uneven), eps, outputs=outputs, dtype="float64"))
assert many.sizes == one.sizes and many.gpp.isnull().equals(one.gpp.isnull()) and many.gpp.isnull().any()
for name in (*outputs, "final_water", "final_carbon", "final_memory"):
    close(many[name], one[name], 1e-9, 1e-9)
month = prepare_forcing(cube).isel(time=slice(0, 30))
on, here = both(lambda: simulate(wroasted(), month, eps, state=one, outputs=["gpp"], dtype="float64"))
close(on.gpp, here.gpp, 1e-9, 1e-9)
inputs, _ = widen(make_inputs(prepare_forcing(cube), spinup=False), multiple=4)
assert inputs.n_site == 8
defaults = {n: np.float32(p.default) for n, p in wroasted().parameter_table.items()}
compiled = module._run.lower(wroasted(), *share_out((defaults, inputs)), "none", ("gpp",), None).compile()
assert len(compiled.input_shardings[0][1].forcing["t_air"].device_set) == 4
assert not (talk := re.findall(r"all-(?:reduce|gather|to-all)|collective-permute", compiled.as_text())), talk
''',
    "fit": '''
same_training(*both(lambda: new(1).fit(uneven, batch_size=7, **OPTIONS)))
''',
    "fit_together": '''
names = [str(s) for s in cube.site.values]
def members():
    parts = [(names[:5], names[5:]), (names[2:], names[:2]), (names[:4], names[4:])]
    return fit_together([new(0), new(1), new(2)], cube, *zip(*parts), batch_size=5, max_years=2, **OPTIONS)
for many, one in zip(*both(members)):
    same_training(many, one)
''',
}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """All cases at once: most of their time is compilation, and a core is seldom all there is."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"  # quick to compile, as all tests
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    said = {name: tmp_path_factory.mktemp("said") / name for name in CASES}
    running = {name: subprocess.Popen([sys.executable, "-c", SETUP + code], env=env, stdout=subprocess.DEVNULL, stderr=said[name].open("w"))
               for name, code in CASES.items()}
    yield running, said
    for process in running.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("case", CASES)
def test_four_devices_give_what_one_gives(case, processes):
    running, said = processes
    assert running[case].wait() == 0, said[case].read_text()[-3000:]


def test_one_device_is_left_alone():
    with jax.default_device(jax.devices()[0]):
        tree = {"x": object()}
        assert len(lane_devices()) == 1 and share_out(tree) is tree
