"""A user's script for a type checker, which knows the arguments and results of what is imported lazily or decorated (run by .ci/package; it is read, not run)."""

from typing import assert_type

import xarray as xr

import hybridecosys as he

cube = he.synthetic_cube(2, years=1)
assert_type(he.simulate(he.wroasted(), he.prepare_forcing(cube)), xr.Dataset)
assert_type(he.HybridModel(he.wroasted()).fit(cube), he.HybridModel)
assert_type(he.SequenceModel().fit(cube, cube, epochs=3, learning_rate=1e-3), he.SequenceModel)
assert_type(he.HybridEnsemble.load("run"), he.HybridEnsemble)
assert_type(he.calibrate(he.wroasted(), cube).parameters, xr.Dataset)
assert_type(he.cross_validate(cube, run_dir="run"), he.CrossValidation)

print(he.simulat)  # type: ignore[attr-defined]
he.simulate(he.wroasted(), 2)  # type: ignore[arg-type]
he.calibrate(he.wroasted(), cube, methd="cmaes", spinup=1)  # type: ignore[arg-type]
he.HybridModel("wroasted", featurs=["soil"])  # type: ignore[arg-type, call-arg]
