"""The command: what it refuses, how, and before which work."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from cubes import DAYS, put, small_cube

from hybridecosys.cli import as_arguments, main, parse
from hybridecosys.data.cube import read_table
from hybridecosys.study.directory import forcing_options, load_cube


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from hybridecosys.cli import main; assert main(['--help']) == 0;"
        "assert main(['--version']) == 0; print([m for m in ('jax', 'numpy', 'xarray', 'tyro') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "simulate" in out and "train" in out and "evaluate" in out
    assert out.rstrip().endswith("[]")


@pytest.mark.parametrize("command", ["simulate", "train", "crossval", "calibrate", "evaluate"])
def test_help_of_each_command_names_the_common_options(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--cube", "--out", "--seed"):
        assert option in text


def test_train_help_names_its_options(capsys):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--epochs", "--sites", "--resume", "--features", "--learning-rate"):
        assert option in text


@pytest.mark.parametrize(
    "args, culprit",
    [
        (["train", "--epoch", "3"], "--epoch"),
        (["train", "--epochs", "three"], "three"),
        (["train", "--spinup", "long"], "--spinup"),
        (["train", "--epochs", "0"], "epochs"),
        (["train", "--valid-fraction", "0.6", "--test-fraction", "0.6"], "valid_fraction"),
        (["train", "--sites", "A", "--n-sites", "2"], "n_sites"),
        (["train", "--seed", "-1"], "seed"),
        (["train", "--dropout", "1"], "dropout"),
        (["train", "--patience", "-1"], "patience"),
        (["crossval", "--scheme", "loo"], "loo"),
        (["crossval", "--k", "1"], "k must"),
        (["crossval", "--keep", "best"], "valid_fraction"),
        (["crossval", "--test-fraction", "0.2"], "--test-fraction"),
        (["simulate", "extra"], "extra"),
        (["evaluate", "--out", "x"], "--run"),
        (["calibrate", "--method", "newton"], "newton"),
        (["train", "--model", "mymodel.py"], "'mymodel.py'"),
        (["simulate", "--model", "mymodel.py:make", "--greenness", "observed"], "greenness"),
        (["learn"], "learn"),
        (["train", "--config", "nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_options_stop_with_code_2_and_are_named(args, culprit, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    assert culprit in capsys.readouterr().err
    assert not any(tmp_path.iterdir()), "something was written"


def test_unknown_option_stops_before_heavy_imports(tmp_path):
    code = (
        "import sys; from hybridecosys.cli import main; code = main(['train', '--learningrate', '1']);"
        "print([m for m in ('jax', 'xarray', 'pandas') if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout.strip() == "[]" and "--learningrate" in done.stderr


@pytest.mark.parametrize("content, culprit", [('{"epochz": 3}', "'epochs'"), ("{epochs: 3}", "options.json"), ("[1]", "options.json")])
def test_file_of_options_is_checked(content, culprit, tmp_path, capsys):
    file = tmp_path / "options.json"
    file.write_text(content)
    assert main(["train", "--config", str(file)]) == 2
    assert culprit in capsys.readouterr().err


def test_value_of_wrong_type_in_a_file_is_named(tmp_path, capsys):
    file = tmp_path / "options.json"
    file.write_text('{"epochs": "many"}')
    assert main(["train", "--config", str(file)]) == 2
    assert "many" in capsys.readouterr().err


def test_file_and_command_line_together(tmp_path):
    given = dict(epochs=7, learning_rate=1e-4, seed=11, features=["igbp", "soil"], sites=["A", "B"], cube=None, debug=True, bounded=False, weights={"gpp": 2.0})
    file = tmp_path / "options.json"
    file.write_text(json.dumps(given))
    options = parse("train", ["--config", str(file), "--sites", "C", "--epochs=2"])
    assert (options.epochs, options.seed, options.features, options.sites) == (2, 11, ("igbp", "soil"), ("C",))
    assert options.debug and not options.bounded and options.cube is None and options.learning_rate == 1e-4
    assert options.weights == {"gpp": 2.0}
    assert parse("train", as_arguments(json.loads(file.read_text()))).sites == ("A", "B")


@pytest.mark.parametrize(
    "args, culprit",
    [
        (["train", "--targets", "gpq"], "'gpq'"),
        (["train", "--features", "soi"], "'soi'"),
        (["train", "--weights", "gpq", "2"], "'gpq'"),
        (["simulate", "--outputs", "gpq"], "'gpq'"),
        (["simulate", "--run", "nowhere"], "nowhere"),
        (["evaluate", "--run", "nowhere"], "nowhere"),
    ],
)
def test_unknown_names_stop_before_a_cube_is_made(args, culprit, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    importlib.import_module("hybridecosys.study.crossval")  # imported later, it would keep what stands in for load_cube here
    for commands in ("experiment", "calibrating"):
        monkeypatch.setattr(f"hybridecosys.study.{commands}.load_cube", lambda *args: pytest.fail("a cube was loaded"))
    assert main(args) == (2 if "--weights" in args else 1)  # weights are checked with the options
    assert culprit in capsys.readouterr().err
    assert not any(tmp_path.iterdir()), "something was written"


def test_a_file_that_is_no_simulation_is_refused(capsys, tmp_path):
    file = tmp_path / "run.nc"
    file.write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    assert main(["evaluate", "--run", str(file), "--out", str(tmp_path / "out")]) == 1
    assert "run.nc: not a readable NetCDF" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["simulate", "train"])
def test_missing_cube_is_one_line_without_traceback_and_leaves_nothing(command, tmp_path, capsys):
    assert main([command, "--cube", str(tmp_path / "nowhere.nc"), "--out", str(tmp_path / "out")]) == 1
    text = capsys.readouterr().err
    assert "nowhere.nc" in text and "Traceback" not in text and len(text.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_debug_raises_the_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        main(["train", "--debug", "--cube", str(tmp_path / "nowhere.nc"), "--out", str(tmp_path / "out")])


def test_run_directory_in_use_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["train", "--out", str(tmp_path), "--n-sites", "8"]) == 1
    assert "already in use" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_existing_simulation_is_not_overwritten(tmp_path, capsys):
    file = tmp_path / "mine.nc"
    file.write_text("mine")
    assert main(["simulate", "--out", str(file)]) == 1
    assert "mine.nc" in capsys.readouterr().err and file.read_text() == "mine"


def test_resume_needs_a_run_and_its_options(tmp_path, capsys):
    assert main(["train", "--resume", "--out", str(tmp_path / "none")]) == 1
    assert "no run to resume" in capsys.readouterr().err
    (tmp_path / "options.json").write_text(json.dumps({"seed": 3, "epochs": 2, "out": "elsewhere"}))
    assert main(["train", "--resume", "--out", str(tmp_path), "--seed", "4"]) == 1
    assert "seed = 3" in capsys.readouterr().err


def test_options_of_the_run_need_not_be_repeated(tmp_path):
    (tmp_path / "options.json").write_text(json.dumps({"seed": 3, "epochs": 2, "sites": ["A"], "out": "elsewhere"}))
    options = parse("train", ["--resume", "--out", str(tmp_path), "--epochs", "5"])
    assert (options.seed, options.epochs, options.sites, options.out) == (3, 5, ("A",), str(tmp_path))


def test_every_option_of_network_and_training_can_be_given():
    from hybridecosys.study.options import TrainOptions
    from hybridecosys.learning.network import NetworkOptions
    from hybridecosys.learning.training import TrainingOptions

    given = {f.name: f.type for f in fields(TrainOptions)}
    for part in (NetworkOptions, TrainingOptions):
        assert {f.name for f in fields(part)} <= set(given), part


def test_every_option_of_calibration_can_be_given_with_the_same_default():
    from hybridecosys.study.options import CalibrateOptions
    from hybridecosys.learning.calibration import CalibrationOptions

    command, call = CalibrateOptions(), CalibrationOptions()
    for f in fields(CalibrationOptions):
        assert getattr(command, f.name) == getattr(call, f.name), f.name


def test_installed_command_is_this_one():
    script = Path(sys.executable).with_name("hybridecosys")
    if not script.exists():
        pytest.skip("the package is not installed in this environment's bin folder")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0 and done.stdout.startswith("0.")


def test_the_commands_of_the_study_are_understood(tmp_path):
    """`make study` calls them one after the other; a misspelled option would show after an hour."""
    spec = importlib.util.spec_from_file_location("study", Path(__file__).parents[1] / "bench/study.py")
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    for part in study.PARTS:
        for begun in (False, True):
            program, verb, *rest = study.command(part, tmp_path, tmp_path / "cube.nc", "observed")
            assert Path(program).name == "hybridecosys" and ("--resume" in rest) == begun
            options = parse(verb, rest)
            assert options.out == str(tmp_path / part) and options.resume == begun and (begun or verb == "agree" or options.greenness == "observed")
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / "options.json").write_text("{}")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A cube as a file: one day of negative radiation, one of absurd gross primary production."""
    file = tmp_path_factory.mktemp("faulty") / "cube.nc"
    put(put(small_cube(DAYS[:730]), "SW_IN_F", -0.6), "GPP_NT_VUT_REF", -500.0, site=0).to_netcdf(file)
    return file


@pytest.mark.parametrize("command", ["simulate", "train", "crossval", "calibrate", "evaluate"])
def test_every_command_stops_at_a_value_out_of_range_and_names_the_option(command, faulty, capsys, tmp_path):
    if command == "evaluate":
        (tmp_path / "run.nc").write_bytes(b"")  # never read
    more = ["--run", str(tmp_path / "run.nc")] if command == "evaluate" else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridecosys.study.experiment.read_simulation", lambda path: None)
        assert main([command, "--cube", str(faulty), "--out", str(tmp_path / "out"), *more]) == 1
    said = capsys.readouterr().err
    assert "-0.6 W m-2 is below 0 at site XX-Bbb on 2003-02-10" in said and "out_of_range" in said and not (tmp_path / "out").exists()


def test_commands_go_on_without_values_out_of_range_when_told_to(faulty, capsys, tmp_path):
    run, scores = str(tmp_path / "run.nc"), tmp_path / "scores"
    common = ["--cube", str(faulty), "--out-of-range"]
    assert main(["simulate", *common, "clip", "--spinup", "none", "--outputs", "gpp", "--out", run]) == 0
    assert "SW_IN_F outside 0 to 550 W m-2: 1 clipped" in capsys.readouterr().err
    assert main(["evaluate", *common, "missing", "--run", run, "--out", str(scores), "--targets", "gpp"]) == 0
    assert "GPP_NT_VUT_REF outside -100 to 100 gC m-2 d-1: 1 set missing" in (scores / "log.txt").read_text() + capsys.readouterr().err
    daily = read_table(scores / "scores.csv").query("scale == 'daily'").set_index("site").n
    assert daily["XX-Aaa"] == daily["XX-Ccc"] - 1
    for command in ("train", "crossval", "calibrate"):
        options = parse(command, [*common, "missing"])
        assert forcing_options(options)["out_of_range"] == "missing"
        with pytest.warns(UserWarning, match="SW_IN_F .* 1 set missing"):
            assert bool(load_cube(options).SW_IN_F.isnull()[1, 40])
