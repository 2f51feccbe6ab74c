"""Cross-validation: nothing of a held-out site reaches training; who does the work, and interruptions, change no bit of the result.

The model is the small one, which compiles in a tenth of the time; with the large one studies run in the notebooks and from the command line."""

import filecmp
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import LocalCluster

from hybridecosys import CrossValidation, bucket, cross_validate, prepare
from hybridecosys.cli import main
from hybridecosys.study import crossval, pieces, work
from hybridecosys.evaluation.report import write_report
from hybridecosys.learning import training
from hybridecosys.learning.network import NetworkOptions
from hybridecosys.learning.sequence import SequenceOptions
from hybridecosys.model.twin import synthetic_cube

MODEL = bucket()
METHODS = ("default", "by_type", "hybrid", "sequence", "trees")
SETTINGS = dict(model=MODEL, targets=["gpp", "nee", "evapotranspiration"], k=2, epochs=2, spinup="none", batch_size=4, max_years=1, together=1, members=2, features=["igbp", "bioclim"],
                network=NetworkOptions(hidden=4, layers=0),
                sequence=SequenceOptions(hidden=4, embed=2, window=100, warmup=20, windows=1))
FLUXES = ["GPP_NT_VUT_REF", "NEE_VUT_REF", "RECO_NT_VUT_REF", "LE_F_MDS", "T"]
TABLES = ["scores.csv", "losses.csv", "folds.csv", "seasons.csv", "summary.csv", "sites.csv", "distance.csv"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of plant types that half of eight sites lack


@pytest.fixture(scope="module")
def cube():
    return synthetic_cube(n_sites=8, years=1, spinup="none").drop_vars("vegetation_fraction")  # it is taken from greenness, as with measurements


@pytest.fixture(scope="module")
def whole(cube, tmp_path_factory):
    """Two folds, all methods, done by two new processes."""
    return cross_validate(cube, methods=METHODS, run_dir=tmp_path_factory.mktemp("cv") / "run", workers=2, progress=False, **SETTINGS)


@pytest.fixture
def again(whole, tmp_path):
    """A copy of its run directory, and a function that undoes some of its units."""
    path = tmp_path / "run"
    shutil.copytree(whole.study.path, path)

    def undo(*units):
        for unit in units:
            shutil.rmtree(path / "units" / unit)
        (path / "scores.csv").unlink()

    return path, undo


def assert_same(path, whole):
    for name in TABLES:
        assert filecmp.cmp(path / name, whole.study.path / name, shallow=False), name
    for name in ("parameters_by_type.nc", "parameters_hybrid.nc"):
        xr.testing.assert_identical(xr.load_dataset(path / name), xr.load_dataset(whole.study.path / name))


def test_scores_are_tidy(cube, whole):
    assert whole.methods == ["default", "global", "by_type", "hybrid", "sequence", "trees"]  # global is what the networks start from
    assert list(whole.scores.columns[:6]) == ["method", "fold", "split", "site", "target", "scale"]
    assert not whole.scores.duplicated(["method", "site", "target", "scale"]).any()
    tested = whole.folds[whole.folds.part == "test"].set_index("site").fold
    assert (whole.scores.fold == whole.scores.site.map(tested)).all()
    for _, rows in whole.scores.groupby("method"):
        assert set(rows.site) == set(cube.site.values)
    summary = whole.summary("igbp")
    assert {"median", "q25", "q75", "worst_decile", "sites"} <= set(summary) and set(summary.igbp) == set(cube.igbp.values)
    assert set(whole.losses.method) == {"global", "by_type", "hybrid", "sequence"} and set(whole.losses.fold) == {"01", "02"}


def test_parameters_are_those_of_the_fold_that_holds_a_site_out(cube, whole):
    values, table = whole.parameters("hybrid"), MODEL.parameters
    for fold in ("01", "02"):
        mine = values.isel(site=(values.fold == fold).values)
        model = whole.model("hybrid", fold)
        assert set(model.encoder.classes["igbp"]) <= set(cube.igbp.sel(site=whole.study.sites(fold, "train")).values)
        xr.testing.assert_equal(model.predict_parameters(cube.sel(site=mine.site.values)), mine.drop_vars("fold"))
        start = json.loads((whole.study.folder(whole.study.groups("hybrid")[int(fold) - 1]) / "training/config.json").read_text())["members"][0]["start"]
        one = whole.parameters("global").isel(site=int(np.flatnonzero(values.fold == fold)[0]))
        assert start == {n: float(v) for n, v in one.items()} and start["gpp.eps_max"] != table.default["gpp.eps_max"]


def test_a_type_not_trained_on_gets_the_set_for_all(cube, whole):
    by_type, one = whole.parameters("by_type"), whole.parameters("global")
    igbp = dict(zip(cube.site.values, cube.igbp.values))
    for i, (site, fold, fallback) in enumerate(zip(by_type.site.values, by_type.fold.values, by_type.fallback.values)):
        assert fallback == (igbp[site] not in {igbp[s] for s in whole.study.sites(fold, "train")})
        same = [by_type[n].values[i] == one.sel(site=site)[n].item() for n in by_type]
        assert all(same) if fallback else not all(same)
    assert 0 < by_type.fallback.sum() < 8


def test_scores_are_of_the_simulation_with_these_parameters(cube, whole):
    run = whole.simulate("hybrid", outputs=["gpp"])
    scores = work.evaluate(run, cube, ["gpp"], ["daily"]).set_index("site").rmse
    kept = whole.scores.query("method == 'hybrid' and target == 'gpp' and scale == 'daily'").set_index("site").rmse
    np.testing.assert_allclose(scores[kept.index], kept, rtol=1e-6)


@pytest.mark.parametrize("hidden", ["fluxes", "all"])
def test_nothing_of_a_held_out_site_reaches_its_prediction(cube, whole, hidden, tmp_path):
    """Noise for fluxes and biomass of the test sites of a fold changes no bit of the parameters and fluxes predicted there. With the vegetated fraction
    from the plant type this holds for greenness, too. Noise at a training site does change them."""
    rng = np.random.default_rng(0)
    held = whole.study.sites("01", "test")

    def noisy(sites, names):
        at = cube.site.isin(sites)
        new = {n: cube[n].where(~at, xr.DataArray(rng.uniform(0.1, 0.9, cube[n].shape), dims=cube[n].dims)).assign_attrs(cube[n].attrs) for n in names}
        return cube.assign(new)

    def predicted(data, methods, forcing=None):
        options = pieces.study_options(**{name: value for name, value in SETTINGS.items() if name != "model"}, forcing=forcing)
        study, methods = crossval.plan_study(data, methods, tmp_path / f"run{rng.integers(10**9)}", options, model=MODEL)
        for method in methods:
            work.run_unit(study, study.groups(method)[0])
        values = {}
        for method in methods:
            run = work.simulate_held_out(study, method, ["01"]) if method == "sequence" else None
            values[method] = run if run is not None else xr.load_dataset(study.folder(study.groups(method)[0]) / "parameters.nc")
        return values, study.tested(["01"])[0].forcing

    if hidden == "fluxes":  # compared with what two other processes made of the true observations
        values, forcing = predicted(noisy(held, [*FLUXES, "agb"]), ["by_type", "hybrid", "sequence"])
        for method in ("global", "by_type", "hybrid"):
            before = whole.parameters(method)
            xr.testing.assert_identical(values[method], before.isel(site=(before.fold == "01").values))
        xr.testing.assert_identical(values["sequence"], whole.simulate("sequence", "01"))
        warned = whole.study.tested(["01"])[0].forcing
        xr.testing.assert_identical(*(f.assign_attrs(implausible="") for f in (forcing, warned)))  # so the fluxes are the same as the parameters are
        return
    methods, options = ["global", "hybrid"], {"greenness": False}
    (a, fa), (b, fb) = (predicted(data, methods, options) for data in (cube, noisy(held, [*FLUXES, "agb", "FAPAR"])))
    xr.testing.assert_identical(*(f.assign_attrs(implausible="") for f in (fa, fb)))  # the noise is warned of
    for method in methods:
        xr.testing.assert_identical(a[method], b[method])
    c, _ = predicted(noisy(whole.study.sites("01", "train")[:1], FLUXES), ["global"], options)
    assert not c["global"].equals(a["global"])


def test_interrupted_in_training_and_resumed_in_this_process(cube, whole, again, monkeypatch):
    path, undo = again
    undo("hybrid_01", "score_hybrid")
    save, epochs = training.Checkpoints.save, []

    def stop(self, state):
        save(self, state)
        epochs.append(state.epoch)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Checkpoints, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(cube, methods=METHODS, run_dir=path, resume=True, progress=False, **SETTINGS)
    monkeypatch.setattr(training.Checkpoints, "save", save)
    assert epochs == [1] and (path / "units/hybrid_01/training/checkpoints").is_dir()
    cross_validate(cube, methods=METHODS, run_dir=path, resume=True, progress=False, **SETTINGS)
    assert_same(path, whole)


def test_on_a_dask_cluster(cube, whole, again):
    path, undo = again
    undo("by_type_01", "score_by_type", "hybrid_00", "score_hybrid")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        cross_validate(cube, methods=METHODS, run_dir=path, resume=True, progress=False, client=cluster.scheduler_address, **SETTINGS)
    assert_same(path, whole)


def test_more_methods_and_a_finished_calibration(cube, whole, again):
    path, _ = again
    given = crossval.Calibration(MODEL.for_training(), whole.parameters("hybrid").drop_vars("fold"), None, None, None, {"spinup": "none"})
    result = cross_validate(cube, methods=[*METHODS, "site"], calibration=given, run_dir=path, resume=True, progress=False, **SETTINGS)
    scores = result.scores.set_index(["method", "site", "target", "scale"])
    pd.testing.assert_frame_equal(scores.loc["site"], scores.loc["hybrid"])
    few = xr.load_dataset(path / "parameters.nc")[["gpp.eps_max", "soil_water.capacity"]]
    few.to_netcdf(path / "parameters.nc")  # 36 panels take their time
    page = write_report(path).with_suffix(".md").read_text()
    for part in ("Learned against site-calibrated parameters", "of hybrid less that of other methods", "every method by plant type", "Cost per epoch of hybrid: each fold"):
        assert part in page, part


def test_an_ensemble_and_a_group_more(cube, whole, again):
    path, _ = again
    result = cross_validate(cube, methods=[*METHODS, "ensemble", "with:site"], run_dir=path, resume=True, progress=False, **SETTINGS)
    members, mean, hybrid = work.member_parameters(result.study), result.parameters("ensemble"), result.parameters("hybrid")
    name = "gpp.eps_max"
    np.testing.assert_allclose(members[name].mean("member"), mean[name], rtol=1e-6)
    np.testing.assert_allclose(members[name][0], hybrid[name], rtol=1e-4)  # the first has the seed of the hybrid
    assert (abs(members[name][0] - members[name][1]) > 1e-4 * mean[name]).any()
    run = result.simulate("ensemble", outputs=["gpp"])
    each = [work.simulate(MODEL.for_training(), result.study.data, members.isel(member=i).sel(site=cube.site), "none", outputs=["gpp"]).gpp for i in (0, 1)]
    np.testing.assert_allclose(run.gpp, (each[0] + each[1]) / 2, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(run.gpp_spread, abs(each[0] - each[1]) / np.sqrt(2), rtol=1e-3, atol=1e-4)
    assert repr(result.model("ensemble", "01")).startswith("<HybridEnsemble of 2") and "site" in result.model("with:site", "01").encoder.groups
    coverage = pd.read_csv(path / "coverage.csv")
    assert set(coverage.interval) == {"ensemble", "ensemble and residuals"} and set(coverage.site) == set(cube.site.values) and coverage.coverage.between(0, 1).all()
    own = cube.site.isin(result.study.sites("01", "test"))
    wild = crossval.replace(result.study, data=prepare(cube.assign(GPP_NT_VUT_REF=cube.GPP_NT_VUT_REF.where(~own | cube.GPP_NT_VUT_REF.isnull(), 50.0))))
    run, width = result.simulate("ensemble"), lambda table: table[table.target == "gpp"].set_index(["site", "interval", "level"]).width
    before, after = (width(work.intervals(study, run)[0]) for study in (result.study, wild))
    same = before.index.get_level_values("site").isin(cube.site.values[own]) | (before.index.get_level_values("interval") == "ensemble")
    assert (after[same] == before[same]).all() and (after[~same] != before[~same]).all()  # errors at a site reach the intervals of other folds alone


def test_folds_in_time_see_their_years_alone(tmp_path):
    cube = synthetic_cube(n_sites=4, years=2, spinup="none").drop_vars("vegetation_fraction")
    result = cross_validate(cube, "time", ["default"], run_dir=tmp_path / "run", spinup="none", features=["igbp"], progress=False)
    study = result.study
    assert study.rounds() == [["later"], ["earlier"]] and study.names == ["later", "earlier"]
    for fold in study.names:
        sites, (train,), _ = study.training([fold])
        data, forcing = sites.cube, sites.forcing
        assert train == [f"{s} in {fold}" for s in study.sites(fold, "train")]
        rows = study.folds[(study.folds.fold == fold) & (study.folds.part == "train")].set_index("site")
        for name in train:
            site, seen = name.split(" in ")[0], data.sel(site=name)
            hidden = (data.time < rows.begin[site]) | (data.time > rows.end[site])
            assert hidden.any() and all(not seen[v].where(hidden).notnull().any() and seen[v].notnull().any() for v in (*FLUXES, "FAPAR"))
            other = study.tested([fold])
            assert "agb" not in other[1] and not other[1].gpp.sel(site=site).where(~hidden).notnull().any()
            np.testing.assert_array_equal(other[0].forcing.vegetation_fraction.sel(site=site), forcing.vegetation_fraction.sel(site=name))  # of the training years
    assert not result.scores.duplicated(["method", "fold", "site", "target", "scale"]).any() and set(result.scores.fold) == {"later", "earlier"}
    assert "4" in result.table().loc["sites"].values or "8" in result.table().loc["sites"].values
    assert "held-out parts of the records" in write_report(tmp_path / "run").with_suffix(".md").read_text()


def test_the_command(cube, tmp_path, capsys, monkeypatch):
    cube.to_netcdf(tmp_path / "cube.nc")
    out = tmp_path / "run"
    args = ["crossval", "--cube", str(tmp_path / "cube.nc"), "--out", str(out), "--spinup", "none", "--k", "2", "--features", "igbp", "--methods", "default"]
    assert main([*args, "--k", "9"]) == 1 and "cannot be dealt out" in capsys.readouterr().err
    assert not (out / "options.json").exists()  # refused: the directory can still be used
    assert main(args) == 0 and "held-out sites" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} >= {"options.json", "config.json", "folds.csv", "scores.csv", "summary.csv", "seasons.csv", "log.txt", "report.html"}
    assert main(args) == 1 and "already in use" in capsys.readouterr().err
    monkeypatch.setattr(crossval, "write_report", lambda path: path)  # once is enough
    before = (out / "units/score_default/done.json").stat().st_mtime_ns
    assert main(["crossval", "--resume", "--out", str(out)]) == 0  # with the options that it has
    assert (out / "units/score_default/done.json").stat().st_mtime_ns == before
    assert main(["crossval", "--resume", "--out", str(out), "--seed", "1"]) == 1 and "seed differ" in capsys.readouterr().err
    assert main(["crossval", "--resume", "--out", str(tmp_path / "other")]) == 1 and "no run to resume" in capsys.readouterr().err


def test_a_script_without_a_main_guard_is_refused_before_its_workers_run_it_again(tmp_path):
    script = tmp_path / "study.py"
    script.write_text("from hybridecosys.study.crew import check_main\nif __name__ == '__main__':\n    check_main()\n    print('guarded')\ncheck_main()\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.stdout == "guarded\n" and done.returncode == 1
    assert f"ValueError: several workers import {script} again, and line 5 would then be run in each: put it under" in done.stderr


def test_what_is_refused_before_any_work(cube, whole, again, tmp_path):
    path, _ = again
    few = dict(run_dir=tmp_path / "new", progress=False)
    for message, options in {
        "method 'hybird' unknown": dict(methods=["hybird"]),
        "not one of several features": dict(methods=["without:soil"]),
        "cannot be dealt out": dict(k=9),
        "scheme must be": dict(scheme="loo"),
        "target ndvi: NDVI drives this model, or the model gives nothing": dict(targets=["ndvi"]),
        "no variable RECO": dict(cube=cube.drop_vars("RECO_NT_VUT_REF"), targets=["reco"]),
        "group 'other' asked for": dict(features=["igbp", "other"]),
        "give valid_fraction": dict(keep="best"),
        "give max_years": dict(max_years=0, together=2),
        "workers must be": dict(workers=0),
        "learning_rate": dict(learning_rate=-1.0),
    }.items():
        with pytest.raises(ValueError, match=message):
            cross_validate(**{"cube": cube, **SETTINGS, **few, **options})
    assert not (tmp_path / "new").exists()
    with pytest.raises(FileExistsError, match="in use"):
        cross_validate(cube, run_dir=path, **SETTINGS)
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        cross_validate(cube, resume=True, **few, **SETTINGS)
    with pytest.raises(ValueError, match="epochs differ"):
        cross_validate(cube, run_dir=path, resume=True, **{**SETTINGS, "epochs": 3})
    with pytest.raises(ValueError, match="cube differ"):
        cross_validate(cube.assign(TA_F=cube.TA_F + 0.1), run_dir=path, resume=True, **SETTINGS)
    with pytest.raises(ValueError, match="another cube"):
        CrossValidation.load(path, cube.isel(site=slice(0, 4)))
    with pytest.raises(FileNotFoundError, match="no finished cross-validation"):
        CrossValidation.load(tmp_path)
    with pytest.raises(ValueError, match="not part of this study"):
        whole.parameters("site")
    with pytest.raises(ValueError, match="no parameters"):
        whole.parameters("sequence")
    with pytest.raises(ValueError, match="unknown, or a site"):
        whole.simulate("hybrid", ["03"])
