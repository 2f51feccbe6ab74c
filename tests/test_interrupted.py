"""Whatever moment a run is killed at, it goes on, or begins again, to the same files to the bit; a run directory belongs to one process; a full disk spoils nothing."""

import inspect
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from flax import nnx
from matplotlib.figure import Figure

from hybridecosys import HybridModel, bucket, calibrate, wroasted
from hybridecosys.cli import main
from hybridecosys.data import files
from hybridecosys.evaluation import figures
from hybridecosys.study import own_model
from hybridecosys.learning.network import NetworkOptions
from hybridecosys.learning.training import Checkpoints
from hybridecosys.model.grid import ATTRIBUTES_OF_A_CELL, TILES, cells_to_sites, simulate_grid, sites_to_cells
from hybridecosys.model.structure import FORCING
from hybridecosys.model.twin import synthetic_cube

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of plant types that some of so few sites lack
LEARN = ["--spinup", "none", "--features", "igbp", "--hidden", "4", "--layers", "0", "--batch-size", "8", "--max-years", "1"]


class Killed(BaseException):
    """Like SIGKILL, nothing of the package may catch it."""


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    path = tmp_path_factory.mktemp("cube") / "cube.nc"
    synthetic_cube(n_sites=6, years=2, spinup="none").drop_vars(["T", "RECO_NT_VUT_REF"]).to_netcdf(path)
    return path


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
    """What the figures of a report show is tested elsewhere, and to draw them takes longer than all the rest."""
    for name, draw in inspect.getmembers(figures, inspect.isfunction):
        if inspect.signature(draw).return_annotation is Figure:
            monkeypatch.setattr(figures, name, lambda *args, **kwargs: Figure(figsize=(1, 1)))


@pytest.fixture(autouse=True)
def small_model(monkeypatch):
    """The commands run the small model, which compiles in a tenth of the time: files and moments are what is tested."""
    monkeypatch.setattr(own_model, "wroasted", lambda greenness: bucket())


def killed_everywhere(monkeypatch, begin, again, both=False) -> list[str]:
    """`begin`, killed at the first writing of every file, before it has its name or after in turn (or `both`), and gone on with by `again`; the files, in order."""
    real, seen = os.replace, {}

    def replace(source, target, **kwargs):
        name = Path(target).name if Path(target).suffix != ".png" else "figures"
        seen[name] = seen.get(name, 0) + 1
        before = 1 if both or len(seen) % 2 else 0
        if seen[name] == before:
            raise Killed(f"before {name}")
        real(source, target, **kwargs)
        if seen[name] == before + 1 and (both or not before):
            raise Killed(f"after {name}")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        patch.setattr(files, "_forget", lambda file: None)  # who is killed does not tidy up
        todo = begin
        while True:
            try:
                todo()
                return list(seen)
            except Killed:
                files._HELD.clear()
                todo = again


def command(*args):
    def run():
        assert main([str(a) for a in args]) == 0

    return run


def resumed_or_begun(name, out, *args):
    """A command as somebody gives it again after it was killed: --resume, and where there is nothing to resume the same as before."""

    def run():
        if main([name, "--resume", "--out", str(out)]):
            assert main([name, *map(str, args), "--out", str(out)]) == 0

    return run


def content(file: Path):
    if file.suffix == ".nc":
        return xr.load_dataset(file).to_dict()
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return {name: arrays[name].tolist() for name in arrays}
    if file.suffix == ".json":
        return {k: v for k, v in json.loads(file.read_text()).items() if k not in ("out", "run", "seconds", "resume")}
    return file.read_bytes()


def assert_same(one: Path, other: Path):
    """All that two run directories hold, but for logs, figures, and pages with the name of the directory."""
    mine, theirs = ({p.relative_to(d) for p in d.rglob("*") if p.is_file() and p.suffix in (".csv", ".nc", ".npz", ".json") and not p.name.startswith(files.NEW)} for d in (one, other))
    assert mine == theirs
    for name in mine:
        np.testing.assert_equal(content(one / name), content(other / name), err_msg=str(name))
    assert (one / "report.html").is_file() == (other / "report.html").is_file()


def test_train(cube, tmp_path, monkeypatch):
    args = ["--cube", cube, *LEARN, "--epochs", "2", "--valid-fraction", "0.2", "--test-fraction", "0.2"]
    command("train", *args, "--out", tmp_path / "whole")()
    names = killed_everywhere(monkeypatch, command("train", *args, "--out", tmp_path / "run"), resumed_or_begun("train", tmp_path / "run", *args))
    assert {"options.json", "config.json", "2.npz", "losses.csv", "weights.npz", "hybrid.json", "parameters.nc", "true_parameters.nc", "scores.csv", "sites.csv", "report.html"} <= {*names}
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_calibrate(cube, tmp_path, monkeypatch):
    args = ["--cube", cube, "--spinup", "none", "--starts", "1", "--steps", "1", "--n-sites", "1"]
    command("calibrate", *args, "--out", tmp_path / "whole")()
    names = killed_everywhere(monkeypatch, command("calibrate", *args, "--out", tmp_path / "run"), resumed_or_begun("calibrate", tmp_path / "run", *args))
    assert {"options.json", "config.json", "checkpoint.npz", "parameters.nc", "calibration.json", "scores.csv"} <= {*names}
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_crossval(cube, tmp_path, monkeypatch):
    args = ["--cube", cube, *LEARN, "--epochs", "1", "--k", "2", "--methods", "default", "hybrid"]
    command("crossval", *args, "--out", tmp_path / "whole")()
    names = killed_everywhere(monkeypatch, command("crossval", *args, "--out", tmp_path / "run"), resumed_or_begun("crossval", tmp_path / "run", *args))
    assert {"options.json", "config.json", "folds.csv", "1.npz", "parameters.nc", "losses.csv", "done.json", "scores.csv", "summary.csv", "report.html"} <= {*names}
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_simulate_evaluate_and_report(cube, tmp_path, monkeypatch):
    """Given again as they were; a file that is there is whole, and not made again."""

    def work(where, run):
        run("simulate", where / "simulation.nc", "--cube", cube, "--spinup", "none", "--outputs", "gpp", "--out", where / "simulation.nc")
        run("evaluate", where / "evaluation/report.html", "--cube", cube, "--run", where / "simulation.nc", "--targets", "gpp", "--out", where / "evaluation")
        run("report", None, where / "evaluation")

    def killed(what, makes, *args):
        again = command(what, *args)
        names = killed_everywhere(monkeypatch, again, lambda: makes and makes.exists() or again(), both=True)
        assert makes is None or makes.name in names

    work(tmp_path / "whole", lambda what, _, *args: command(what, *args)())
    work(tmp_path / "run", killed)
    xr.testing.assert_identical(*(xr.load_dataset(tmp_path / name / "simulation.nc") for name in ("whole", "run")))
    assert_same(tmp_path / "run/evaluation", tmp_path / "whole/evaluation")


def test_grid(tmp_path, monkeypatch):
    from hybridecosys import prepare_forcing

    sites = prepare_forcing(synthetic_cube(n_sites=4, years=1, spinup="none"))[[*(n for n in FORCING if n != "disturbance"), *ATTRIBUTES_OF_A_CELL]].isel(time=slice(0, 30))
    like = xr.Dataset({"t_air": (("time", "lat", "lon"), np.zeros((1, 2, 2)))}, {"lat": [50.0, 40.0], "lon": [10.0, 11.0]})
    grid = sites_to_cells(sites.assign_coords(site=cells_to_sites(like).site), like)
    settings = dict(spinup="none", outputs=["gpp", "soil_1"], tile={"lat": 1}, lanes=4, progress=False)
    whole = simulate_grid(wroasted(), grid, tmp_path / "whole", **settings).load()

    def again():
        store = tmp_path / "part"
        simulate_grid(wroasted(), grid, store, **settings, resume=store.exists())

    names = killed_everywhere(monkeypatch, lambda: simulate_grid(wroasted(), grid, tmp_path / "part", **settings), again, both=True)
    assert "part" in names
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "part", consolidated=False).load(), whole)
    with files.locked(tmp_path / "part" / TILES), pytest.raises(FileExistsError, match="in use by"):
        simulate_grid(wroasted(), grid, tmp_path / "part", **settings)


def hybrid():
    return HybridModel(bucket(), ["igbp"], spinup="none", network=NetworkOptions(hidden=4, layers=0))


def fit(cube, epochs, **options):
    data = xr.load_dataset(cube)
    return hybrid().fit(data.isel(site=slice(0, 4)), data.isel(site=[4, 5]), epochs, **{"progress": False, "targets": ["gpp"], "decay": False, "max_years": 1, "batch_size": 8, **options})


def assert_same_training(one, other):
    pd.testing.assert_frame_equal(one.losses, other.losses)
    for a, b in zip(*(jax.tree.leaves(nnx.state(h.network, nnx.Param)) for h in (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def three_epochs(cube):
    return fit(cube, 3)


@pytest.mark.parametrize("name", ["[1]", "a*b ?", "plain"])
def test_names_of_directories_and_what_is_lost_or_damaged(cube, three_epochs, tmp_path, name):
    run = tmp_path / name
    fit(cube, 2, run_dir=run)
    (run / "losses.csv").unlink()
    newest = run / "checkpoints" / "2.npz"
    if name == "plain":  # cut; a bit is tried in the notebook
        newest.write_bytes(newest.read_bytes()[:-50])
        with pytest.warns(UserWarning, match="2.npz is damaged"):
            again = fit(cube, 3, run_dir=run, resume=True)
    else:
        again = fit(cube, 3, run_dir=run, resume=True)
    assert_same_training(again, three_epochs)
    assert sorted(pd.read_csv(run / "losses.csv").epoch.unique()) == [1, 2, 3]


def test_all_checkpoints_damaged_and_those_of_a_run_before(cube, three_epochs, tmp_path):
    fit(cube, 2, run_dir=tmp_path)
    for file in (tmp_path / "checkpoints").iterdir():
        file.write_bytes(b"PK")
    with pytest.warns(UserWarning, match="damaged"):
        assert_same_training(fit(cube, 3, run_dir=tmp_path, resume=True), three_epochs)
    (tmp_path / "config.json").unlink()  # and a new run does not take the checkpoints that it finds
    fit(cube, 1, run_dir=tmp_path, seed=1)
    assert Checkpoints(tmp_path).epochs == [1]


def test_in_a_running_event_loop(cube, three_epochs, tmp_path):
    import asyncio

    async def cell():
        fit(cube, 2, run_dir=tmp_path / "run")
        return fit(cube, 3, run_dir=tmp_path / "run", resume=True)

    assert_same_training(asyncio.run(cell()), three_epochs)


SCRIPT = """
    import os, signal, sys, warnings
    warnings.simplefilter("ignore")
    import xarray as xr
    from hybridecosys import HybridModel, bucket
    from hybridecosys.learning.network import NetworkOptions
    cube, run_dir, resume, kill = sys.argv[1], sys.argv[2], sys.argv[3] == "resume", sys.argv[4]
    real = os.replace
    def replace(a, b, **k):
        if os.path.basename(b) == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if kill == "wait" and str(b).endswith("1.npz"):
            print("begun", flush=True); sys.stdin.readline()
        return real(a, b, **k)
    os.replace = replace
    data = xr.load_dataset(cube)
    hybrid = HybridModel(bucket(), ["igbp"], spinup="none", network=NetworkOptions(hidden=4, layers=0))
    hybrid.fit(data.isel(site=slice(0, 4)), data.isel(site=[4, 5]), 3, progress=False, targets=["gpp"], decay=False, max_years=1, batch_size=8, run_dir=run_dir, resume=resume)
"""


def process(*args, **kwargs):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(SCRIPT), *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_one_process_at_a_time_and_killed_for_good(cube, three_epochs, tmp_path):
    """A second process is told who is there, as is this one; killed with SIGKILL, the lock is gone with it, and the run goes on."""
    first = process(cube, tmp_path / "run", "new", "wait")
    assert first.stdout.readline() == "begun\n"
    with pytest.raises(FileExistsError, match=f"in use by process {first.pid} on"):
        fit(cube, 3, run_dir=tmp_path / "run")
    with pytest.raises(FileExistsError, match=f"in use by process {first.pid} on"):
        fit(cube, 3, run_dir=tmp_path / "run", resume=True)
    first.kill()
    first.communicate()
    second = process(cube, tmp_path / "run", "resume", "2.npz")
    assert second.communicate()[1] == "" and second.returncode == -signal.SIGKILL
    assert Checkpoints(tmp_path / "run").epochs == [1] and list((tmp_path / "run/checkpoints").glob(".new*"))
    assert_same_training(fit(cube, 3, run_dir=tmp_path / "run", resume=True), three_epochs)


@pytest.mark.skipif(os.name == "nt", reason="no limit on the size of files on Windows")
def test_a_full_disk_leaves_what_was_there(three_epochs, tmp_path):
    """No file may grow beyond 1 kB, which gives the same error as a full disk."""
    three_epochs.save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(OSError, match="(weights.npz|hybrid.json) could not be written .*unchanged"):
            three_epochs.save(tmp_path, replace=True)
        with pytest.raises(OSError, match="a.nc could not be written"):
            files.write_dataset(tmp_path / "a.nc", xr.Dataset({"x": ("site", np.random.default_rng(0).random(1000))}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_float64_set_by_the_user_changes_nothing(cube, three_epochs):
    data = xr.load_dataset(cube)
    few = dict(targets=["gpp"], spinup="none", progress=False, steps=1, starts=1)
    fitted = calibrate(bucket(), data.isel(site=[0]), **few)
    with jax.enable_x64(True):
        assert_same_training(fit(cube, 3), three_epochs)
        xr.testing.assert_identical(calibrate(bucket(), data.isel(site=[0]), **few).parameters, fitted.parameters)
        xr.testing.assert_identical(three_epochs.predict_parameters(data), three_epochs.predict_parameters(data))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forked_after_use(three_epochs, cube):
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        try:
            three_epochs.predict_parameters(xr.load_dataset(cube))
        except ValueError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"was forked from process" in os.read(read, 500)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_no_epoch(cube, epochs):
    with pytest.raises(ValueError, match="epochs must be"):
        fit(cube, epochs)


def test_constant_target_and_validation_without_it(cube):
    data = xr.load_dataset(cube)
    train, valid = data.isel(site=slice(0, 4)), data.isel(site=[4, 5])
    same = train.assign(GPP_NT_VUT_REF=(train.GPP_NT_VUT_REF * 0 + 2.5).assign_attrs(train.GPP_NT_VUT_REF.attrs))
    with pytest.raises(ValueError, match="observations of gpp are constant, 2.5 at site SY-00"):
        hybrid().fit(same, None, 1, targets=["gpp"], progress=False)
    with pytest.raises(ValueError, match="observations of gpp are constant"):
        calibrate(bucket(), same, targets=["gpp"], spinup="none")
    with pytest.raises(ValueError, match=r"validation cube.*lacks gpp \(variable GPP_NT_VUT_REF\)"):
        hybrid().fit(train, valid.drop_vars("GPP_NT_VUT_REF"), 1, targets=["gpp"], progress=False)
    with pytest.warns(UserWarning, match=r"validation cube has no observation of gpp \(variable GPP_NT_VUT_REF\): the epochs are judged by nee"):
        hybrid().fit(train, valid.drop_vars("GPP_NT_VUT_REF"), 1, targets=["gpp", "nee"], progress=False, max_years=1, batch_size=8)


