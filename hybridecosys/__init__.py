"""Hybrid ecosystem modelling: one neural network learns the parameters of a differentiable vegetation-water-carbon model.

Importing this package is light: what a name needs (JAX among it) is imported when the name is first used.
"""

__version__ = "0.2.0"

import os
from importlib import import_module
from typing import TYPE_CHECKING

# XLA on CPUs: compile a loop into one function, not kernel by kernel, and leave its loops over sites as they are (see the notebook on the time loop)
if "--xla_backend_extra_options" not in os.environ.get("XLA_FLAGS", ""):
    _WHOLE_LOOPS = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=9000000000000000000,xla_cpu_disable_loop_unrolling=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_WHOLE_LOOPS}".strip()

if TYPE_CHECKING:
    from . import plot
    from .data.build import at_sites, build_cube, coverage
    from .data.cube import open_cube
    from .data.export import export, export_callmip, to_alma
    from .data.fluxnet import read_fluxnet, sample_path
    from .data.forcing import prepare_forcing
    from .data.observations import observations
    from .data.own_table import cube_from_table
    from .data.sites import Sites, prepare
    from .data.sources import read_source
    from .study.crossval import CrossValidation, cross_validate
    from .study.experiment import run_experiment
    from .evaluation.metrics import evaluate
    from .evaluation.report import write_report
    from .evaluation.summary import read_run
    from .evaluation.uncertainty import HybridEnsemble
    from .learning.calibration import calibrate
    from .learning.hybrid import HybridModel
    from .learning.large import LargeCube
    from .learning.sequence import SequenceModel
    from .learning.trees import TreesModel
    from .model.bucket import bucket
    from .model.devices import keep_memory
    from .model.grid import simulate_grid
    from .model.programs import keep_programs
    from .model.simulate import simulate
    from .model.structure import Model, wroasted
    from .model.twin import synthetic_cube
    from .processes.neural import neural
    from .processes.process import Parameter, Pool, approach

_HOME = {
    "open_cube": "data.cube",
    "read_fluxnet": "data.fluxnet",
    "sample_path": "data.fluxnet",
    "prepare_forcing": "data.forcing",
    "observations": "data.observations",
    "cube_from_table": "data.own_table",
    "Sites": "data.sites",
    "prepare": "data.sites",
    "at_sites": "data.build",
    "build_cube": "data.build",
    "coverage": "data.build",
    "export": "data.export",
    "export_callmip": "data.export",
    "to_alma": "data.export",
    "read_source": "data.sources",
    "neural": "processes.neural",
    "Parameter": "processes.process",
    "Pool": "processes.process",
    "approach": "processes.process",
    "Model": "model.structure",
    "wroasted": "model.structure",
    "simulate": "model.simulate",
    "simulate_grid": "model.grid",
    "bucket": "model.bucket",
    "keep_memory": "model.devices",
    "keep_programs": "model.programs",
    "synthetic_cube": "model.twin",
    "HybridModel": "learning.hybrid",
    "LargeCube": "learning.large",
    "SequenceModel": "learning.sequence",
    "TreesModel": "learning.trees",
    "calibrate": "learning.calibration",
    "evaluate": "evaluation.metrics",
    "run_experiment": "study.experiment",
    "cross_validate": "study.crossval",
    "CrossValidation": "study.crossval",
    "write_report": "evaluation.report",
    "read_run": "evaluation.summary",
    "HybridEnsemble": "evaluation.uncertainty",
}

_MODULES = ("plot",)  # of functions that are called as he.plot.series(...)

__all__ = [
    "CrossValidation",
    "HybridEnsemble",
    "HybridModel",
    "LargeCube",
    "Model",
    "Parameter",
    "Pool",
    "SequenceModel",
    "Sites",
    "TreesModel",
    "approach",
    "at_sites",
    "bucket",
    "build_cube",
    "calibrate",
    "coverage",
    "cross_validate",
    "cube_from_table",
    "evaluate",
    "export",
    "export_callmip",
    "keep_memory",
    "keep_programs",
    "neural",
    "observations",
    "open_cube",
    "prepare",
    "prepare_forcing",
    "read_fluxnet",
    "read_run",
    "read_source",
    "run_experiment",
    "sample_path",
    "simulate",
    "simulate_grid",
    "synthetic_cube",
    "to_alma",
    "write_report",
    "wroasted",
]


if not TYPE_CHECKING:  # a type checker would take any name for one of these

    def __getattr__(name: str):
        if name in _MODULES:
            return import_module(f".{name}", __name__)
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}" + _near(name))
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value


def _near(name: str) -> str:
    """The end of the error about a name that there is not; nothing for those that tools look for."""
    if name.startswith("_"):
        return ""
    from .data.names import did_you_mean

    return did_you_mean(name, (*__all__, *_MODULES))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
