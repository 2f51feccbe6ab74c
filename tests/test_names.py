"""A misspelled name is answered with the one that was meant, whatever it names; what is no cube, with the call that makes one."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import hybridecosys as he
from hybridecosys.data.features import check_groups
from hybridecosys.data.fluxnet import sample_path
from hybridecosys.data.greenness import extra_forcing
from hybridecosys.data.observations import TARGETS
from hybridecosys.data.weather import draw_climate, synthetic_weather
from hybridecosys.evaluation.metrics import check_scales
from hybridecosys.evaluation.over_sites import site_table
from hybridecosys.study.folds import check_folds, make_folds
from hybridecosys.study.options import TrainOptions, check_keys
from hybridecosys.study.pieces import check_methods
from hybridecosys.learning.options import CalibrationOptions, NetworkOptions, TrainingOptions, make_options


@pytest.fixture(scope="module")
def cube():
    return synthetic_weather(1, years=1)


MEANT = {
    "public name": (lambda cube: he.simulat, "simulate"),
    "target": (lambda cube: he.observations(cube, ["gppp"]), "gpp"),
    "target, weight": (lambda cube: TrainingOptions(weights={"recco": 1}), "reco"),
    "scale": (lambda cube: check_scales(["dayly"]), "daily"),
    "feature": (lambda cube: check_groups(["bioclime"]), "bioclim"),
    "feature of a model": (lambda cube: he.HybridModel(he.wroasted(), features=["igpb"]), "igbp"),
    "parameter": (lambda cube: he.simulate(he.wroasted(), he.prepare_forcing(cube), {"gpp_potential.epsmax": 1}, spinup="none"), "gpp_potential.eps_max"),
    "parameter without process": (lambda cube: he.HybridModel(he.wroasted(), features=["igbp"], learned=["eps_max"]), "gpp_potential.eps_max"),
    "parameter, scope": (lambda cube: he.wroasted().with_scope({"wue.kapa": "global"}), "wue.kappa"),
    "output": (lambda cube: he.simulate(he.wroasted(), he.prepare_forcing(cube), spinup="none", outputs=["transpirtion"]), "transpiration"),
    "process": (lambda cube: he.wroasted().replace(gpp_vdp=lambda vpd_day: vpd_day), "gpp_vpd"),
    "argument of a process": (lambda cube: he.wroasted().replace(gpp_vpd=lambda vpd_dy: vpd_dy), "vpd_day"),
    "input of a network": (lambda cube: he.neural("gpp_vpd", ["vpd_dy"]), "vpd_day"),
    "method": (lambda cube: check_methods(["hybird"], ["igbp"]), "hybrid"),
    "method, group": (lambda cube: check_methods(["only:bioclimate"], ["igbp"]), "bioclim"),
    "option of a command": (lambda cube: check_keys({"epoch": 1}, TrainOptions), "epochs"),
    "option of training": (lambda cube: make_options(TrainingOptions, {"learning_rte": 1}), "learning_rate"),
    "option of calibration": (lambda cube: he.calibrate(he.wroasted(), cube, step=2), "steps"),
    "attribute of a site": (lambda cube: he.read_fluxnet(sample_path(), latitud=1), "latitude"),
    "spin-up": (lambda cube: he.simulate(he.wroasted(), he.prepare_forcing(cube), spinup="referense"), "reference"),
    "gap": (lambda cube: he.prepare_forcing(cube, on_gap="longst"), "longest"),
    "value out of range": (lambda cube: he.observations(cube, out_of_range="mising"), "missing"),
    "scheme": (lambda cube: make_folds(cube, "kfolds"), "kfold"),
    "part of a fold": (lambda cube: check_folds(pd.DataFrame({"fold": ["1"], "site": ["a"], "part": ["trian"]}), cube), "train"),
    "method of calibration": (lambda cube: he.calibrate(he.wroasted(), cube, method="gradients"), "gradient"),
    "activation": (lambda cube: NetworkOptions(activation="gelo"), "gelu"),
    "scope": (lambda cube: he.Parameter(1.0, 0, 2, "1", "slope", scope="globel"), "global"),
    "climate": (lambda cube: draw_climate(np.random.default_rng(0), "tundrra"), "tundra"),
    "series of one's own": (lambda cube: extra_forcing(cube, cube.TA_F.notnull(), ["greeness"]), "greenness"),
    "site of a split": (lambda cube: site_table(cube, {f"{cube.site.values[0]}x": "train"}), "{site}"),
}


@pytest.mark.parametrize("what", MEANT)
@pytest.mark.filterwarnings("ignore")
def test_the_name_that_was_meant(cube, what):
    call, meant = MEANT[what]
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError), match=f"did you mean ['\\\\]+{meant.format(site=cube.site.values[0])}"):
        call(cube)


def test_what_is_near_to_nothing_is_answered_with_what_there_is(cube):
    with pytest.raises(ValueError, match=", ".join(TARGETS.index)):
        he.observations(cube, ["moonlight"])


@pytest.mark.parametrize("kind, name, home", [(TrainingOptions, "dropout", "NetworkOptions"), (TrainingOptions, "starts", "CalibrationOptions"),
                                              (CalibrationOptions, "learning_rate", "TrainingOptions")])
def test_an_option_of_another_place_is_sent_there(kind, name, home):
    with pytest.raises(TypeError, match=f"{kind.__name__} has no option '{name}'; it is one of {home}"):
        make_options(kind, {name: 1})
    assert make_options(NetworkOptions, {}) == NetworkOptions()


@pytest.mark.parametrize("call", [he.prepare_forcing, he.observations, lambda c: he.HybridModel(he.wroasted(), features=["igbp"]).fit(c), lambda c: he.calibrate(he.wroasted(), c)])
@pytest.mark.parametrize("thing, way", [(pd.DataFrame({"t": [1.0]}), r"cube_from_table.*'TA_F'.*read_fluxnet"), ("sites.nc", "open_cube"), (synthetic_weather(1, years=1).TA_F, "to_dataset")])
def test_what_is_no_cube_is_answered_with_the_call_that_makes_one(call, thing, way):
    with pytest.raises(TypeError, match=way):
        call(thing)


def test_the_call_for_a_table_makes_a_cube(cube):
    table = pd.DataFrame({"your column": cube.TA_F.values[0]}, index=cube.indexes["time"])
    made = xr.Dataset({"TA_F": (("site", "time"), table[["your column"]].T.values, {"units": "degC"})}, coords={"site": ["XX-Abc"], "time": table.index})
    assert made.TA_F.values.tolist() == cube.TA_F.values.tolist()
