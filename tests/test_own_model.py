"""Commands with a model of one's own: every command runs it, workers too; what it was is kept, and another one is refused by name."""

import inspect
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

from hybridecosys import HybridModel, bucket, open_cube, synthetic_cube, wroasted
from hybridecosys.cli import main
from hybridecosys.evaluation import figures
from hybridecosys.learning.calibration import Calibration
from hybridecosys.study.crew import check_model
from hybridecosys.study.own_model import find_model, record_of, source_of

TEXT = """
import hybridecosys as he

SHARE = 0.5  # of light that is used


def dimmed(light):
    "What is left of light."
    return SHARE * light


@he.approach("gpp", returns="gpp", enters="gpp", units={"gpp": ("gC m-2 d-1", "gross primary production")},
             efficiency=he.Parameter(0.6, 0.05, 2, "gC MJ-1", "light-use efficiency", learned=True))
def by_light(rg, wetness, efficiency):
    return efficiency * dimmed(rg) * wetness


@he.approach("gpp_vpd", returns="gpp_f_vpd", d0=he.Parameter(1.5, 0.2, 8, "kPa", "deficit that halves GPP", learned=True))
def lohammar(vpd_day, d0):
    return 1 / (1 + vpd_day / d0)


def make_model():
    return he.bucket().replace(gpp=by_light)


def large():
    return he.wroasted().replace(gpp_vpd=lohammar)


def driven():
    return he.wroasted(greenness="observed").replace(gpp_vpd=lohammar)


def fixed():
    model = make_model()
    return model.with_scope({name: "fixed" for name in model.learned if not name.startswith("spinup")}).with_scope({"gpp.efficiency": "global"})


model = he.bucket().replace(gpp=by_light)
"""
QUICK = ["--spinup", "none"]
NETWORK = ["--hidden", "4", "--layers", "0", "--features", "igbp", "--no-decay"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of plant types that few sites lack


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    path = tmp_path_factory.mktemp("cube") / "cube.nc"
    synthetic_cube(n_sites=6, years=1, spinup="none", model=bucket()).drop_vars("true_parameters").to_netcdf(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """The working directory, with the file of the model, which is forgotten in the end."""
    home = tmp_path_factory.mktemp("home")
    (home / "own_equations.py").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(sys, "path", [*sys.path])
        for name, draw in inspect.getmembers(figures, inspect.isfunction):  # to draw a report takes longer than all the rest
            if inspect.signature(draw).return_annotation is Figure:
                patch.setattr(figures, name, lambda *args, **kwargs: Figure(figsize=(1, 1)))
        yield home
    sys.modules.pop("own_equations", None)


@pytest.fixture
def changed(home):
    """A function that changes the file of the model, for the time of a test."""
    yield lambda old, new: (home / "own_equations.py").write_text(TEXT.replace(old, new))
    (home / "own_equations.py").write_text(TEXT)


@pytest.fixture(scope="module")
def trained(cube, home):
    out = home / "run"
    assert main(["train", "--model", "own_equations.py:make_model", "--cube", str(cube), "--out", str(out), "--epochs", "1", "--valid-fraction", "0", *QUICK, *NETWORK]) == 0
    return out


def test_a_file_and_a_module_give_the_same_model(home):
    mine = find_model("own_equations.py:make_model")
    assert mine == find_model(f"{home}/own_equations.py:model") == find_model("own_equations:make_model")
    assert mine.processes["gpp"].name == "by_light"
    assert find_model("hybridecosys.model.bucket:bucket") == bucket()


@pytest.mark.parametrize("text, culprit", [
    ("nowhere.py:make_model", "no file nowhere.py"), ("no_package.models:make", "no module no_package"), ("own_equations.py:make_modle", "did you mean 'make_model'"),
    ("own_equations.py:SHARE", "float"), ("bad/broken.py:make", "broken.py:make: SyntaxError"), ("bad/failing.py:make", "RuntimeError: no weights"), ("bad/json.py:make", "json is there already")])
def test_what_is_no_model_is_said_in_a_line(text, culprit, home, cube, capsys):
    (home / "bad").mkdir(exist_ok=True)
    for name, content in {"broken": "def make(:", "failing": "def make():\n    raise RuntimeError('no weights')", "json": "make = 1"}.items():
        (home / f"bad/{name}.py").write_text(content)
    assert main(["train", "--model", text, "--cube", str(cube), "--out", "never"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and culprit in said[0] and text in said[0] and not Path("never").exists()


def test_simulate_runs_it(cube, home):
    assert main(["simulate", "--model", "own_equations.py:make_model", "--cube", str(cube), "--out", "own.nc", "--outputs", "gpp", *QUICK]) == 0
    assert main(["simulate", "--model", "hybridecosys.model.bucket:bucket", "--cube", str(cube), "--out", "bucket.nc", "--outputs", "gpp", *QUICK]) == 0
    mine, theirs = xr.load_dataset("own.nc"), xr.load_dataset("bucket.nc")
    assert mine.attrs["fingerprint"] != theirs.attrs["fingerprint"] and not mine.gpp.equals(theirs.gpp)


def test_a_changed_wroasted_runs(cube, home):
    assert main(["simulate", "--model", "own_equations.py:large", "--cube", str(cube), "--out", "large.nc", "--outputs", "gpp_f_vpd", *QUICK]) == 0
    assert record_of(find_model("own_equations.py:large"), "x")["source"]["gpp_vpd"].startswith("def lohammar")
    assert find_model("own_equations.py:large") == wroasted().replace(gpp_vpd=sys.modules["own_equations"].lohammar)


def test_training_keeps_it_and_goes_on_with_it(cube, home, trained, capsys):
    kept = json.loads((trained / "model.json").read_text())
    assert kept["model"] == "own_equations.py:make_model" and set(kept["source"]) == {"gpp"} and "SHARE = 0.5" in kept["source"]["gpp"]
    assert main(["evaluate", "--run", str(trained), "--cube", str(cube), "--out", "evaluation"]) == 0
    assert main(["simulate", "--run", str(trained), "--cube", str(cube), "--out", "learned.nc", "--outputs", "gpp"]) == 0
    hybrid = HybridModel.load(trained, find_model("own_equations.py:make_model"))
    assert hybrid.simulate(open_cube(cube), ["gpp"]).gpp.equals(xr.load_dataset("learned.nc").gpp)
    shutil.copytree(trained, "longer")
    assert main(["train", "--resume", "--out", "longer", "--epochs", "2"]) == 0
    assert HybridModel.load("longer", hybrid.structure).losses.epoch.max() == 2
    assert main(["report", "longer"]) == 0
    assert "own_equations.py:make_model" in Path("longer/report.md").read_text()


@pytest.mark.parametrize("old, new", [("SHARE = 0.5", "SHARE = 0.25"), ("SHARE * light", "SHARE * light * light"), ("0.05, 2,", "0.05, 3,")])
def test_a_changed_model_is_refused_by_name(old, new, cube, trained, changed, capsys, tmp_path):
    changed(old, new)
    for args in (["train", "--resume", "--out", str(trained), "--epochs", "3"], ["evaluate", "--run", str(trained), "--out", "never"],
                 ["simulate", "--run", str(trained), "--out", "never.nc"], ["calibrate", "--start", str(trained), "--out", "never"]):
        more = [] if args[0] == "train" else ["--cube", str(cube)]
        assert main([*args, *more, *(["--model", "own_equations.py:make_model"] if args[0] == "calibrate" else [])]) == 1
        said = capsys.readouterr().err
        assert "gpp differ" in said and str(trained) in said and "own_equations.py:make_model" in said
    assert not Path("never").exists() and not Path("never.nc").exists()


def test_a_report_of_a_changed_model_warns_by_name(trained, changed, home, capsys):
    report = lambda: (main(["report", str(trained), "--out", "told.html"]), capsys.readouterr())
    code, said = report()
    assert code == 0 and "warning" not in said.err and "told.html" in said.out
    page = Path("told.html").read_text()
    changed("SHARE = 0.5", "SHARE = 0.25")
    code, said = report()
    assert code == 0 and said.err.count("warning") == 1 and "own_equations.py:make_model is now: gpp differ" in said.err and str(trained) in said.err
    (home / "own_equations.py").rename(home / "away.py")
    try:
        code, said = report()
        assert code == 0 and said.err.count("warning") == 1 and "there is no file own_equations.py" in said.err
    finally:
        (home / "away.py").rename(home / "own_equations.py")
    assert Path("told.html").read_text() == page  # from the files alone


def test_a_change_of_the_same_length_in_the_same_second_is_seen(home, changed):
    for value in ("0.5", "0.6", "0.7", "0.5"):
        changed("SHARE = 0.5", f"SHARE = {value}")
        assert f"SHARE = {value}" in record_of(find_model("own_equations.py:make_model"), "x")["source"]["gpp"]


def test_without_a_cube_the_observations_are_of_the_model_itself(home, capsys):
    """A structure of one's own is not fitted to what WROASTED says: truth, true parameters and targets are its own, in training and where the run is judged."""
    few = ["--n-sites", "6", "--years", "1"]
    args = ["train", "--model", "own_equations.py:make_model", *few, "--epochs", "1", "--valid-fraction", "0", *QUICK, *NETWORK]
    assert main([*args, "--out", "twin"]) == 0
    assert "observations of the model bucket itself" in capsys.readouterr().err
    truth = xr.load_dataset("twin/true_parameters.nc")
    assert "gpp.efficiency" in truth and {*truth.data_vars} <= {*find_model("own_equations.py:make_model").learned}
    assert main(["evaluate", "--run", "twin", *few, "--out", "judged"]) == 0
    assert "observations of the model bucket itself" in capsys.readouterr().err
    both = [pd.read_csv(f"{where}/scores.csv").query("method == 'hybrid'").set_index(["site", "target", "scale"]).nse for where in ("twin", "judged")]
    np.testing.assert_allclose(both[0], both[1].loc[both[0].index], rtol=1e-4)
    for name, more, culprit in [("make_model", ["--targets", "transpiration"], "no output for transpiration"), ("driven", [], "greenness drives it"),
                                ("fixed", [], "no parameter that is learned for each site")]:
        assert main([*[a.replace("make_model", name) for a in args], *more, "--out", "never"]) == 1
        said = capsys.readouterr().err
        assert culprit in said and "--cube" in said and not Path("never").exists()


def test_a_comment_is_no_change(cube, trained, changed):
    changed('"What is left of light."', '"The rest of light."  # new words')
    assert main(["evaluate", "--run", str(trained), "--cube", str(cube), "--out", "commented"]) == 0


def test_a_model_that_has_gone_is_named_and_found_where_it_is_now(cube, home, trained, capsys):
    (home / "own_equations.py").rename(home / "moved_equations.py")
    try:
        args = ["evaluate", "--run", str(trained), "--cube", str(cube), "--out", "moved"]
        assert main(args) == 1
        said = capsys.readouterr().err
        assert "no file own_equations.py" in said and str(trained) in said and "--model" in said
        assert main([*args, "--model", "moved_equations.py:make_model"]) == 0
    finally:
        (home / "moved_equations.py").rename(home / "own_equations.py")
        sys.modules.pop("moved_equations", None)


def test_a_run_of_the_package_goes_not_on_with_another_model(cube, home, capsys):
    Path("plain").mkdir()
    Path("plain/options.json").write_text("{}")
    assert main(["train", "--resume", "--out", "plain", "--model", "own_equations.py:make_model"]) == 1
    assert "model = None" in capsys.readouterr().err
    Path("plain/config.json").write_text("{}")
    assert main(["crossval", "--resume", "--out", "plain", "--cube", str(cube), "--model", "own_equations.py:make_model"]) == 1
    assert "begun without --model" in capsys.readouterr().err and not Path("plain/model.json").exists()


def test_cross_validation_with_workers_and_resumed(cube, home, changed, capsys):
    args = ["crossval", "--cube", str(cube), "--k", "2", "--methods", "global", "--min-sites", "2", "--together", "1", "--batch-size", "4", *QUICK, *NETWORK, "--epochs", "1"]
    assert main([*args, "--model", "own_equations.py:make_model", "--out", "cv", "--workers", "2"]) == 0
    assert json.loads(Path("cv/model.json").read_text())["source"]["gpp"].startswith("def by_light")
    scores = Path("cv/scores.csv").read_text()
    shutil.rmtree("cv/units/global_00")
    shutil.rmtree("cv/units/score_global")
    Path("cv/scores.csv").unlink()
    changed("SHARE = 0.5", "SHARE = 0.25")
    assert main(["crossval", "--resume", "--out", "cv"]) == 1
    assert "gpp differ" in capsys.readouterr().err
    changed("", "")
    assert main(["crossval", "--resume", "--out", "cv", "--workers", "1"]) == 0
    assert Path("cv/scores.csv").read_text() == scores
    fold = next(Path("cv/units/global_00/models").iterdir())
    assert main(["simulate", "--run", str(fold), "--cube", str(cube), "--out", "of_fold.nc", "--outputs", "gpp"]) == 0


def test_calibration_is_kept_and_starts_another(cube, home, trained):
    args = ["calibrate", "--cube", str(cube), "--model", "own_equations.py:make_model", "--n-sites", "2", "--steps", "1", "--starts", "1", *QUICK]
    assert main([*args, "--out", "calibration", "--start", str(trained)]) == 0
    assert json.loads(Path("calibration/model.json").read_text())["name"] == "bucket"
    assert Calibration.load("calibration", find_model("own_equations.py:make_model")).parameters["gpp.efficiency"].sizes == {"site": 2}
    assert main([*args, "--out", "again", "--start", "calibration"]) == 0


def test_the_text_of_an_equation_is_that_of_what_it_uses():
    equations = find_model("own_equations.py:make_model").processes["gpp"].function
    assert "def dimmed" in source_of(equations) and "SHARE = 0.5" in source_of(equations) and "What is left" not in source_of(equations)


def test_workers_refuse_what_has_no_name():
    with pytest.raises(ValueError, match="workers=1"):
        check_model(wroasted().replace(gpp_vpd=lambda vpd_day: 1.0))
