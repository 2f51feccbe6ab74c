"""Calibration at each site: it gets near the noise, stays in bounds, resumes exactly, and sees nothing of what is held out."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridecosys.data.observations import TARGETS
from hybridecosys.data.sites import prepare
from hybridecosys.learning import calibration
from hybridecosys.learning.calibration import Calibration, calibrate
from hybridecosys.learning.cost import output_names
from hybridecosys.learning.problem import calibration_periods, calibration_years
from hybridecosys.model.bucket import bucket
from hybridecosys.model.structure import wroasted
from hybridecosys.model.twin import synthetic_cube

SETTINGS = dict(spinup="none", starts=2, progress=False)
OBSERVED = ("GPP_NT_VUT_REF", "NEE_VUT_REF", "RECO_NT_VUT_REF", "LE_F_MDS", "FAPAR", "T")
OUTPUTS = list(output_names([t for t in TARGETS.index if t != "ndvi"]))  # as in calibrate: compiled once


@pytest.fixture(scope="module")
def cube():
    return synthetic_cube(n_sites=4, years=2, spinup="none")


@pytest.fixture(scope="module")
def fit(cube, tmp_path_factory):
    return calibrate(wroasted(), cube, **SETTINGS, steps=9, run_dir=tmp_path_factory.mktemp("fit") / "run")


def cost_of(cube, fit, parameters):
    """What parameters cost on the days that the calibration was about, (site,)."""
    problem = fit.problem(cube)
    return problem.costs(calibration.in_ranges(parameters, fit.model, fit.model.learned, problem.data.sites), np.arange(4), 4)


def test_near_the_noise_and_better_than_the_defaults_everywhere(cube, fit):
    default, found = cost_of(cube, fit, {}), cost_of(cube, fit, fit.parameters)
    noise = cost_of(cube, fit, cube.true_parameters.to_dataset("parameter"))
    np.testing.assert_allclose(found, fit.costs, rtol=1e-3)  # what is returned has the cost that is told
    assert (found < default).all()
    assert np.median((found - noise) / (default - noise)) < 0.2, (default, found, noise)


def test_what_is_known_of_the_spinup_serves_near_by():
    cube = synthetic_cube(n_sites=4, years=2, model=bucket(), spinup="accelerated")
    fit = calibrate(bucket(), cube, spinup="accelerated", starts=1, steps=1, progress=False)
    problem, sites = fit.problem(cube), np.arange(4)
    x = np.random.default_rng(0).uniform(0.3, 0.7, (4, len(fit.model.learned))).astype(np.float32)
    cost, gradient, matrix, through = problem.slopes(x, sites, 4)
    assert through.shape[:2] == x.shape and np.isfinite(through).all() and (through != 0).any()
    again = problem.slopes(x, sites, 4, through)
    for a, b in zip(again, (cost, gradient, matrix)):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3 * np.abs(b).max())  # from here it is the same but for rounding
    near = np.clip(x + 0.02, 0, 1)
    anew, kept = problem.slopes(near, sites, 4), problem.slopes(near, sites, 4, through)
    np.testing.assert_allclose(anew[0], kept[0], rtol=1e-6)  # the cost itself is that of a whole run
    assert np.corrcoef(anew[1].ravel(), kept[1].ravel())[0, 1] > 0.98
    assert np.array_equal(kept[3], through) and not np.array_equal(anew[3], through)
    without = problem.slopes(near, sites, 4, np.zeros_like(through))
    assert np.abs(without[1] - anew[1]).max() > 5 * np.abs(kept[1] - anew[1]).max()  # and it is needed


def test_history_and_bounds(fit):
    table = fit.model.parameters
    assert list(fit.parameters) == list(fit.model.learned)
    for name, value in fit.parameters.items():
        assert (value >= table.lower[name]).all() and (value <= table.upper[name]).all(), name
    assert (fit.history.groupby("site").cost.diff().dropna() <= 0).all() and fit.history.groupby("site").size().eq(9).all()
    for row in fit.at_bound.itertuples():
        bound = table.loc[row.parameter, row.bound]
        assert abs(row.value - bound) < 0.01 * (table.upper - table.lower)[row.parameter] and row.value == fit.parameters[row.parameter].sel(site=row.site)


def test_scores_of_both_parts(cube, fit):
    from hybridecosys.evaluation.metrics import evaluate

    assert set(fit.scores.part) == {"calibration", "held out"} and set(fit.scores.site) == set(cube.site.values)
    cut = fit.periods.held_out.iloc[0]
    assert (fit.periods.end < fit.periods.held_out).all()
    run = fit.simulate(cube, OUTPUTS)
    late = evaluate(run.sel(time=slice(cut, None)), cube.sel(time=slice(cut, None)).drop_vars("agb"), scales=["daily"])
    mine = fit.scores[fit.scores.part == "held out"].rename(columns={"nse": "mine"}).merge(late, on=["site", "target"])
    assert len(mine) > 20
    np.testing.assert_allclose(mine.mine, mine.nse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method, count", [("gradient", {"steps": 9}), ("cmaes", {"generations": 5, "population": 6})])
def test_interrupted_run_resumes_with_the_same_result(cube, fit, tmp_path, monkeypatch, method, count):
    whole = fit if method == "gradient" else calibrate(wroasted(), cube, method, **SETTINGS, **count)
    name = {"gradient": "descend", "cmaes": "evolve"}[method]
    step = getattr(calibration, name)

    def stopped(problem, state):
        if len(state["history"]) == 4:
            raise KeyboardInterrupt
        return step(problem, state)

    monkeypatch.setattr(calibration, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        calibrate(wroasted(), cube, method, **SETTINGS, **count, run_dir=tmp_path / "run")
    monkeypatch.setattr(calibration, name, step)
    resumed = calibrate(wroasted(), cube, method, **SETTINGS, **count, run_dir=tmp_path / "run", resume=True)
    xr.testing.assert_identical(resumed.parameters, whole.parameters)
    pd.testing.assert_frame_equal(resumed.history, whole.history)


def test_resumes_only_from_the_same_starts(cube, tmp_path):
    few = dict(SETTINGS, steps=1, run_dir=tmp_path / "run")
    calibrate(wroasted(), cube, **few, starts_from=[{"root_depth.fraction": 0.3}])
    with pytest.raises(ValueError, match="starts_from differ"):
        calibrate(wroasted(), cube, **few, resume=True, starts_from=[{"root_depth.fraction": 0.4}])
    calibrate(wroasted(), cube, **few, resume=True, starts_from=[{"root_depth.fraction": 0.3}])


def test_seed_decides(cube, fit):
    few = dict(SETTINGS, starts=2, steps=1)
    a, b = (calibrate(wroasted(), cube, **few, seed=s).history for s in (0, 1))
    pd.testing.assert_series_equal(a.cost, fit.history[fit.history.step == 1].cost)
    assert not a.cost.equals(b.cost)


def test_nothing_of_the_held_out_part_reaches_the_calibration(cube):
    cube = cube.drop_vars("vegetation_fraction")  # as in a cube of measurements: it is taken from greenness, which is observed
    few = dict(SETTINGS, steps=3)
    fit = calibrate(wroasted(), cube, **few)
    late = cube.time >= fit.periods.held_out.iloc[0]
    noise = cube.assign({name: cube[name].where(~late, 1.0) for name in OBSERVED} | {"VPD_F": cube.VPD_F.where(~late, 2.0)})
    other = calibrate(wroasted(), noise, **few)
    xr.testing.assert_identical(other.parameters, fit.parameters)
    early = [f.scores[f.scores.part == "calibration"].reset_index(drop=True) for f in (fit, other)]
    pd.testing.assert_frame_equal(*early)
    assert (fit.scores.part == "held out").any() and not (other.scores.part == "held out").any()  # a constant has no spread to be explained
    changed = cube.assign(GPP_NT_VUT_REF=(cube.GPP_NT_VUT_REF * 0.5).where(~late, cube.GPP_NT_VUT_REF).assign_attrs(cube.GPP_NT_VUT_REF.attrs))  # but what calibrates does reach it
    assert not calibrate(wroasted(), changed, **few).parameters.equals(fit.parameters)


def test_given_parameters_are_a_start(cube, fit):
    again = calibrate(wroasted(), cube, **dict(SETTINGS, starts=1), steps=1, starts_from=[fit.parameters])
    assert (again.costs <= fit.costs + 1e-4).all()


def test_run_directory(fit, cube, tmp_path):
    run_dir = fit.save(tmp_path / "copy")
    again = Calibration.load(run_dir)
    xr.testing.assert_identical(again.parameters, fit.parameters)
    xr.testing.assert_equal(again.simulate(cube, OUTPUTS), fit.simulate(cube, OUTPUTS))
    with pytest.raises(FileExistsError, match="already holds"):
        fit.save(tmp_path / "copy")
    with pytest.raises(FileNotFoundError, match="no calibration"):
        Calibration.load(tmp_path)
    with pytest.raises(ValueError, match="gpp_vpd"):
        Calibration.load(run_dir, wroasted().replace(gpp_vpd=lambda vpd_day: 1.0))


def test_bad_input(cube, tmp_path):
    model = wroasted()
    with pytest.raises(ValueError, match="method"):
        calibrate(model, cube, "newton")
    with pytest.raises(ValueError, match="train_fraction"):
        calibrate(model, cube, train_fraction=0)
    with pytest.raises(ValueError, match="gpq"):
        calibrate(model, cube, weights={"gpq": 1})
    with pytest.raises(ValueError, match="spinup"):
        calibrate(model, cube, spinup="long")
    with pytest.raises(KeyError, match="did you mean"):
        calibrate(model, cube, starts_from=[{"gpp_vpd.kapa": 0.3}])
    with pytest.raises(ValueError, match="resume needs"):
        calibrate(model, cube, resume=True)
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        calibrate(model, cube, run_dir=tmp_path / "none", resume=True)
    silent = cube.drop_vars("agb").assign({n: cube[n].where(cube.site != cube.site[2]) for n in OBSERVED})
    with pytest.raises(ValueError, match=f"site {cube.site.values[2]} has no target"):
        calibrate(model, silent)
    with pytest.raises(ValueError, match="no site has 30 days with an observation of transpiration"):
        calibrate(model, cube.assign(T=cube["T"].where(cube.time > cube.time[400])), targets=["transpiration"])


def test_short_records_are_used_whole_and_said(cube):
    short = cube.isel(time=slice(0, 500), site=[0])
    sites = prepare(short)
    with pytest.warns(UserWarning, match=f"nothing is held out: {short.site.values[0]}"):
        held_out = calibration_periods(sites, 0.7)
    mine, _, periods = calibration_years(sites, sites.observed(), held_out, 0)
    assert periods.held_out.isna().all() and periods.end.iloc[0] == sites.forcing.indexes["time"][-1]
    assert mine.forcing.t_air.notnull().all()


def test_the_command_writes_a_run_directory_and_resumes(cube, fit, tmp_path, capsys):
    from hybridecosys.cli import main

    cube.to_netcdf(tmp_path / "cube.nc")
    out = tmp_path / "run"
    assert main(["calibrate", "--cube", str(tmp_path / "cube.nc"), "--out", str(out), "--spinup", "none", "--starts", "2", "--steps", "9"]) == 0
    assert "calibrated" in capsys.readouterr().out
    xr.testing.assert_allclose(Calibration.load(out).parameters, fit.parameters)
    scores = pd.read_csv(out / "scores.csv")
    assert set(scores.split) == {"train", "test"} and set(scores.method) == {"default", "calibrated"}
    daily = scores[(scores.scale == "daily") & (scores.split == "train")].pivot_table(index="site", columns="method", values="nnse", aggfunc="sum")
    assert (daily.calibrated > daily.default).all()
    assert main(["calibrate", "--out", str(out)]) == 1 and "in use" in capsys.readouterr().err
    assert main(["calibrate", "--out", str(out), "--resume"]) == 0
    assert main(["calibrate", "--out", str(tmp_path / "none"), "--resume"]) == 1 and "no run to resume" in capsys.readouterr().err
