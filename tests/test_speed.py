"""Proxies of speed that carry no noise: operations of the compiled day, bytes of temporaries, compilations of a training run.

They are compared with tests/speed_proxies.json and must not grow. They depend on the version of JAX, so figures are kept for each; on another
the test is skipped. After a change that makes them larger for a good reason, or smaller:

    UPDATE_SPEED_PROXIES=1 pytest tests/test_speed.py
"""

import json
import os
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.data.weather import synthetic_weather
from hybridecosys.learning.cost import output_names
from hybridecosys.learning.hybrid import HybridModel
from hybridecosys.learning.options import NetworkOptions
from hybridecosys.model.inputs import make_inputs
from hybridecosys.model.simulate import run
from hybridecosys.model.spinup import bind, initial_state
from hybridecosys.model.structure import wroasted
from hybridecosys.model.timeloop import ahead, remembered, weather_values
from hybridecosys.model.twin import synthetic_cube

STORED = Path(__file__).with_name("speed_proxies.json")
SLACK = 1.02  # another processor may be compiled for a little differently
MODEL = wroasted("smooth")
OUTPUTS = output_names(("gpp", "nee", "reco", "evapotranspiration", "transpiration", "ndvi", "agb"))


def check(found: dict[str, int]) -> None:
    known = json.loads(STORED.read_text())
    if os.environ.get("UPDATE_SPEED_PROXIES"):
        known.setdefault(jax.__version__, {}).update(found)
        STORED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        return
    if jax.__version__ not in known or jax.default_backend() != "cpu":
        pytest.skip(f"no figures are stored for JAX {jax.__version__} on {jax.default_backend()}; UPDATE_SPEED_PROXIES=1 stores them")
    absent = found.keys() - known[jax.__version__].keys()
    assert not absent, f"no figure is stored for {sorted(absent)}; see the top of this file"
    grown = {n: (known[jax.__version__][n], v) for n, v in found.items() if v > SLACK * known[jax.__version__][n]}
    assert not grown, f"more than stored (stored, found): {grown}; see the top of this file"


@pytest.fixture(scope="module")
def case():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = make_inputs(prepare_forcing(synthetic_weather(n_sites=8, years=4)), np.float32)
    return {n: jnp.full(8, p.default, "float32") for n, p in MODEL.parameter_table.items()}, inputs


def operations(compiled) -> int:
    """Instructions of all computations but those that only name values."""
    names = re.findall(r"^\s*(?:ROOT )?%?\S+ = .*? ([a-z][a-z\-]*)\(", compiled.as_text(), re.M)
    return sum(name not in ("parameter", "constant", "get-tuple-element", "tuple", "bitcast") for name in names)


def test_operations_of_the_compiled_day(case):
    parameters, inputs = case
    dynamics = bind(MODEL, parameters, inputs)
    plan = dynamics.plan
    state = initial_state(dynamics, inputs)
    forcing = {n: x[0] for n, x in inputs.forcing.items()}
    today = {k: v[0] for k, v in weather_values(dynamics, state, forcing, ahead(plan)).items()}
    state = {n: x for n, x in state.items() if n not in remembered(plan)}

    def day(dynamics, state, today):
        return dynamics.day(state, today, OUTPUTS)

    def back(dynamics, state, today, pulled):
        return jax.vjp(day, dynamics, state, today)[1](pulled)

    arguments = (dynamics, state, today)
    found = {"operations of a day": operations(jax.jit(day).lower(*arguments).compile())}
    pulled = jax.tree.map(jnp.ones_like, jax.eval_shape(day, *arguments))
    found["operations of a day and its gradient"] = operations(jax.jit(back).lower(*arguments, pulled).compile())
    check(found)


def test_bytes_of_temporaries_of_the_gradient(case):
    parameters, inputs = case

    def cost(parameters, inputs):
        out = run(MODEL, parameters, inputs, "none", OUTPUTS)[1]
        return sum((x**2).sum() for x in out.values())

    compiled = jax.jit(jax.grad(cost)).lower(parameters, inputs).compile()
    check({"bytes of temporaries, 8 sites x 4 years": compiled.memory_analysis().temp_size_in_bytes})


def test_compilations_of_a_training_run(request):
    lowered = []
    listen = lambda event, *_, **__: lowered.append(event)
    jax.monitoring.register_event_duration_secs_listener(listen)
    request.addfinalizer(lambda: jax.monitoring.unregister_event_duration_listener(listen))
    cube = synthetic_cube(n_sites=4, years=1, spinup="none")
    model, odd = wroasted(), NetworkOptions(hidden=5)  # a network that no other test has

    def compilations(epochs):
        lowered.clear()
        HybridModel(model, features=["igbp"], spinup="none", network=odd).fit(cube, epochs=epochs, batch_size=2, progress=False)
        return sum("jaxpr_to_mlir_module" in event for event in lowered)

    first, again, longer = (compilations(epochs) for epochs in (1, 1, 3))
    assert first > longer and again == 0, "later runs compile again what the first has compiled"
    check({"compilations of a training run, its model compiled before": longer})  # its decay of the step size is another
