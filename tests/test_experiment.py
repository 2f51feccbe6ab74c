"""The commands from a cube file to run directories: train, resume, simulate and evaluate with what was learned."""

import json
from dataclasses import asdict
from inspect import signature

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridecosys import HybridModel, SequenceModel, bucket, cross_validate, open_cube, prepare_forcing, simulate, synthetic_cube, wroasted
from hybridecosys.cli import main
from hybridecosys.data.weather import synthetic_weather
from hybridecosys.study import own_model
from hybridecosys.study.options import CrossvalOptions, TrainOptions
from hybridecosys.learning.options import NetworkOptions, TrainingOptions
from hybridecosys.learning.together import fit_together

FILES = ["options.json", "config.json", "sites.csv", "losses.csv", "parameters.nc", "scores.csv", "seasons.csv", "report.html", "report.md", "log.txt"]


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    """A file of eight synthetic sites, one year, whose observations are the model's own output, with noise."""
    data = synthetic_weather(n_sites=8, years=1, seed=1)
    run = simulate(wroasted(), prepare_forcing(data), spinup="none", outputs=["gpp", "nee", "eco_respiration"])
    noise = np.random.default_rng(0).normal(1, 0.1, run.gpp.shape)
    for name, output in (("GPP_NT_VUT_REF", "gpp"), ("NEE_VUT_REF", "nee"), ("RECO_NT_VUT_REF", "eco_respiration")):
        data[name] = ("site", "time"), run[output].values * noise, {"units": "gC m-2 d-1"}
    data["NEE_VUT_REF_QC"] = ("site", "time"), np.ones(noise.shape), {"units": "1"}
    path = tmp_path_factory.mktemp("cube") / "cube.nc"
    data.to_netcdf(path)
    return path


@pytest.fixture(scope="module")
def trained(cube, tmp_path_factory):
    """The run directory of one epoch."""
    out = tmp_path_factory.mktemp("run") / "mine"
    args = ["train", "--cube", str(cube), "--out", str(out), "--epochs", "1", "--spinup", "none", "--features", "igbp", "soil", "--hidden", "8",
            "--no-decay"]  # with a decaying rate a run cannot be prolonged
    assert main([*args, "--layers", "1", "--valid-fraction", "0.25", "--test-fraction", "0.25", "--seed", "3"]) == 0
    return out


@pytest.fixture
def small_model(monkeypatch):
    """The commands run the small model, which compiles in a tenth of the time."""
    monkeypatch.setattr(own_model, "wroasted", lambda greenness: bucket())


def test_run_directory_holds_everything(trained):
    assert not [f for f in FILES if not (trained / f).is_file()]
    scores = pd.read_csv(trained / "scores.csv")
    assert set(scores.method) == {"default", "hybrid"} and set(scores.split) == {"train", "valid", "test"}
    assert scores.site.nunique() == 8 and scores[scores.scale == "daily"].nse.notna().all()
    parameters = xr.load_dataset(trained / "parameters.nc")
    assert sorted(np.unique(parameters.split, return_counts=True)[1]) == [2, 2, 4]
    for name, values in parameters.items():
        assert values.attrs["lower"] <= values.min() and values.max() <= values.attrs["upper"], name
    assert "8 sites: 4 train, 2 valid, 2 test" in (trained / "log.txt").read_text()


def test_a_baseline_leaves_the_network_as_it_is_and_a_start_does_not(tmp_path, small_model):
    synthetic_cube(n_sites=6, years=1, model=bucket(), spinup="none").to_netcdf(tmp_path / "cube.nc")
    args = ["train", "--cube", str(tmp_path / "cube.nc"), "--epochs", "4", "--spinup", "none", "--features", "igbp", "--hidden", "4"]
    args += ["--layers", "1", "--valid-fraction", "0", "--test-fraction", "0.4"]
    more = {"alone": [], "baseline": ["--baseline"], "start": ["--one-for-all"]}
    runs = {}
    for name, flag in more.items():
        assert main([*args, *flag, "--out", str(tmp_path / name)]) == 0
        runs[name] = xr.load_dataset(tmp_path / name / "parameters.nc"), pd.read_csv(tmp_path / name / "scores.csv")
    xr.testing.assert_identical(runs["alone"][0], runs["baseline"][0])
    assert not runs["alone"][0].equals(runs["start"][0])
    for name in ("baseline", "start"):
        assert set(runs[name][1].method) - set(runs["alone"][1].method) == {"one for all"}
        assert pd.read_csv(tmp_path / name / "one_for_all" / "losses.csv").epoch.max() == 1  # three tenths of the epochs
    true = xr.load_dataset(tmp_path / "alone" / "true_parameters.nc")
    assert {n for n, v in true.items() if "reach" in v.attrs} == {n for n in bucket().learned if n in true}
    assert "Which parameters are found again" in (tmp_path / "alone" / "report.md").read_text()


def test_a_target_withheld_from_training_is_scored(cube, tmp_path, small_model):
    args = ["train", "--cube", str(cube), "--out", str(tmp_path / "run"), "--spinup", "none", "--features", "igbp", "soil", "--hidden", "8", "--epochs", "1", "--seed", "3"]
    assert main([*args, "--layers", "1", "--no-decay", "--valid-fraction", "0.25", "--test-fraction", "0.25", "--targets", "gpp", "nee"]) == 0
    assert set(pd.read_csv(tmp_path / "run" / "losses.csv").target) >= {"gpp", "nee"}
    assert "reco" not in set(pd.read_csv(tmp_path / "run" / "losses.csv").target)
    scores = pd.read_csv(tmp_path / "run" / "scores.csv").query("scale == 'daily' and split == 'test'")
    assert scores[scores.target == "reco"].nse.notna().all() and set(scores.target) == {"gpp", "nee", "reco"}
    assert "Not trained on, and so a test of the equations alone: RECO." in (tmp_path / "run" / "report.md").read_text()


def test_split_of_sites_is_that_of_training(trained):
    sites = pd.read_csv(trained / "sites.csv").set_index("site").split
    config = json.loads((trained / "config.json").read_text())["sites"]
    assert set(config["train"]) == set(sites[sites == "train"].index) and set(config["valid"]) == set(sites[sites == "valid"].index)


def test_command_and_call_train_the_same_network(trained, cube):
    """Options that neither names have one default: the parameters are equal to the bit."""
    sites = pd.read_csv(trained / "sites.csv").set_index("site").split
    data = open_cube(cube)
    part = {p: data.sel(site=[s for s in data.site.values if sites[str(s)] == p]) for p in ("train", "valid")}
    mine = HybridModel(wroasted(), ["igbp", "soil"], seed=3, spinup="none", network=NetworkOptions(hidden=8))
    mine.fit(part["train"], part["valid"], epochs=1, decay=False, progress=False)
    xr.testing.assert_equal(mine.predict_parameters(data), HybridModel.load(trained).predict_parameters(data))


def test_defaults_of_commands_and_calls_are_the_same():
    options = [NetworkOptions(), TrainingOptions()]
    for command in (TrainOptions(), CrossvalOptions()):
        for o in options:
            assert {n: getattr(command, n) for n in asdict(o)} == asdict(o)
        for call in (fit_together, cross_validate):
            assert signature(call).parameters["epochs"].default == command.epochs == HybridModel.epochs
    assert CrossvalOptions().sequence_epochs == SequenceModel.epochs


def test_same_seed_same_result(trained, cube, tmp_path):
    again = tmp_path / "again"
    assert main(["train", "--config", str(trained / "options.json"), "--out", str(again)]) == 0
    for name in ("losses.csv", "scores.csv", "sites.csv"):
        assert (again / name).read_text() == (trained / name).read_text(), name


def test_a_directory_in_use_is_refused(trained, capsys):
    before = {p.name: p.stat().st_mtime_ns for p in trained.iterdir()}
    assert main(["train", "--out", str(trained)]) == 1
    assert "in use" in capsys.readouterr().err
    assert before == {p.name: p.stat().st_mtime_ns for p in trained.iterdir()}


def test_resume_goes_on(trained):
    assert main(["train", "--resume", "--out", str(trained), "--epochs", "2"]) == 0
    losses = pd.read_csv(trained / "losses.csv")
    assert sorted(losses.epoch.unique()) == [1, 2] and not losses.duplicated(["epoch", "split", "target"]).any()
    assert json.loads((trained / "options.json").read_text())["epochs"] == 2


def test_a_decaying_rate_cannot_be_prolonged(cube, tmp_path, capsys, small_model):
    args = ["train", "--cube", str(cube), "--out", str(tmp_path / "run"), "--spinup", "none", "--features", "igbp", "--hidden", "4", "--seed", "3"]
    assert main([*args, "--layers", "1", "--valid-fraction", "0", "--test-fraction", "0.25", "--epochs", "1"]) == 0  # and no validation sites are needed
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--epochs", "2"]) == 1
    assert "epochs differ" in capsys.readouterr().err


def test_simulate_and_evaluate_with_what_was_learned(trained, cube, tmp_path, capsys):
    run = tmp_path / "run.nc"
    common = ["--cube", str(cube), "--sites", "SY-002", "SY-005"]
    assert main(["simulate", *common, "--run", str(trained), "--out", str(run), "--outputs", "gpp", "nee", "eco_respiration"]) == 0
    expected = HybridModel.load(trained).simulate(xr.load_dataset(cube).sel(site=["SY-002", "SY-005"]), ["gpp"])
    result = xr.load_dataset(run)
    assert set(result.site.values) == {"SY-002", "SY-005"}
    np.testing.assert_allclose(result.gpp, expected.gpp, rtol=1e-6)
    for name, source in (("file", run), ("directory", trained)):
        assert main(["evaluate", *common, "--run", str(source), "--out", str(tmp_path / name), "--targets", "gpp", "nee"]) == 0
        assert (tmp_path / name / "report.html").is_file()
    of_file, of_run = (pd.read_csv(tmp_path / name / "scores.csv").drop(columns="method") for name in ("file", "directory"))
    pd.testing.assert_frame_equal(of_file, of_run, rtol=1e-5)
    assert set(of_file.target) == {"gpp", "nee"}


def test_no_site_with_an_observation_of_a_requested_target(trained, cube, tmp_path, capsys):
    assert main(["evaluate", "--cube", str(cube), "--run", str(trained), "--out", str(tmp_path / "out"), "--targets", "ndvi"]) == 1
    assert "ndvi" in capsys.readouterr().err
