"""One network against a calibration: the same sites, the same days, scored in the years that neither saw."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridecosys import bucket, synthetic_cube
from hybridecosys.cli import main
from hybridecosys.learning.options import KNOWN_EPOCHS, KNOWN_SITES, NetworkOptions, TrainingOptions
from hybridecosys.study.agreement import agreement_table, read_calibrated, train_as_calibrated
from hybridecosys.study.options import AgreeOptions

SMALL = ["--hidden", "4", "--layers", "1", "--epochs", "2", "--no-decay"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cube of four made-up sites of three years, and a calibration of it with the small model."""
    folder = tmp_path_factory.mktemp("agree")
    synthetic_cube(n_sites=4, years=3, spinup="none", model=bucket()).to_netcdf(folder / "cube.nc")
    calibrate = ["calibrate", "--cube", str(folder / "cube.nc"), "--model", "hybridecosys.model.bucket:bucket", "--spinup", "none", "--starts", "1", "--steps", "2"]
    assert main([*calibrate, "--out", str(folder / "sites")]) == 0
    assert main(["agree", "--calibration", str(folder / "sites"), "--out", str(folder / "agreement"), *SMALL]) == 0
    return folder


def asked(folder, **more):
    return AgreeOptions(calibration=str(folder / "sites"), hidden=4, layers=1, epochs=2, decay=False, **more)


def test_the_run_directory_holds_both(folder, capsys):
    there = folder / "agreement"
    scores = pd.read_csv(there / "scores.csv")
    assert set(scores.method) == {"default", "calibrated", "network"} and set(scores.split) == {"train", "test"}
    calibrated = pd.read_csv(folder / "sites" / "scores.csv").query("method == 'calibrated'").drop(columns="method").reset_index(drop=True)
    pd.testing.assert_frame_equal(scores[scores.method == "calibrated"].drop(columns="method").reset_index(drop=True), calibrated)  # scored as it was
    agreement, learned = pd.read_csv(there / "agreement.csv", index_col=0), xr.load_dataset(there / "parameters.nc")
    assert set(agreement.index) == set(xr.load_dataset(folder / "sites" / "parameters.nc")) <= set(learned) and (agreement.sites == 4).all()
    assert (there / "report.html").is_file() and "network has a median daily NSE" in (there / "report.md").read_text()


def test_the_network_sees_no_later_observation(folder, tmp_path):
    """What was observed in the years held out can be anything: the weights stay the same to the bit. What was observed before cannot."""
    found, sites = read_calibrated(asked(folder))
    first = found.periods.held_out
    assert first.notna().all()

    def network(when, name):
        cube = xr.load_dataset(folder / "cube.nc")
        late = cube.time.values >= first.iloc[0].to_datetime64()
        change = xr.where(late if when == "late" else ~late, 0.5, 1.0)
        for flux in ("GPP_NT_VUT_REF", "NEE_VUT_REF"):
            cube[flux] = (cube[flux] * xr.DataArray(change, dims="time")).transpose(*cube[flux].dims).assign_attrs(cube[flux].attrs)
        cube.to_netcdf(tmp_path / f"{name}.nc")
        _, sites = read_calibrated(asked(folder, cube=str(tmp_path / f"{name}.nc")))
        return train_as_calibrated(found, sites, asked(folder), tmp_path / name).predict_parameters(sites)

    expected = xr.load_dataset(folder / "agreement" / "parameters.nc")
    xr.testing.assert_equal(network("late", "late"), expected)
    with pytest.raises(AssertionError):
        xr.testing.assert_equal(network("early", "early"), expected)


def test_resume_gives_the_same(folder, tmp_path):
    once = tmp_path / "once"
    assert main(["agree", "--calibration", str(folder / "sites"), "--out", str(once), *SMALL[:-3], "--epochs", "1", "--no-decay"]) == 0
    assert main(["agree", "--resume", "--out", str(once), "--epochs", "2"]) == 0
    assert (once / "scores.csv").read_text() == (folder / "agreement" / "scores.csv").read_text()


def test_a_made_up_cube_is_made_up_again_with_the_same_model(tmp_path):
    """Without --cube the calibration was of observations of the model of one's own; the network learns from the same."""
    calibrate = ["calibrate", "--n-sites", "3", "--years", "3", "--model", "hybridecosys.model.bucket:bucket", "--spinup", "none", "--starts", "1", "--steps", "1"]
    assert main([*calibrate, "--out", str(tmp_path / "sites")]) == 0
    assert main(["agree", "--calibration", str(tmp_path / "sites"), "--out", str(tmp_path / "agreement"), *SMALL]) == 0
    here, there = (pd.read_csv(tmp_path / d / "scores.csv").query("method == 'default'").reset_index(drop=True) for d in ("agreement", "sites"))
    pd.testing.assert_frame_equal(here, there)


def test_nothing_is_begun_in_vain(folder, tmp_path, capsys):
    agree = ["agree", "--calibration", str(folder / "sites"), "--out"]
    assert main([*agree, str(folder / "agreement")]) == 1 and "in use" in capsys.readouterr().err
    assert main(["agree", "--calibration", str(tmp_path / "nowhere"), "--out", str(tmp_path / "a")]) == 1 and "nowhere" in capsys.readouterr().err
    assert main([*agree, str(tmp_path / "b"), "--keep", "best"]) == 2
    assert main([*agree, str(tmp_path / "c"), "--resume"]) == 1 and "no run to resume" in capsys.readouterr().err
    xr.load_dataset(folder / "cube.nc").isel(site=slice(3)).to_netcdf(tmp_path / "three.nc")
    assert main([*agree, str(tmp_path / "d"), "--cube", str(tmp_path / "three.nc")]) == 1 and "SY-004" in capsys.readouterr().err
    periods = folder / "sites" / "periods.csv"
    before = periods.read_text()
    try:
        pd.read_csv(periods, index_col=0).assign(held_out=None).to_csv(periods)
        assert main([*agree, str(tmp_path / "e")]) == 1 and "held no years out" in capsys.readouterr().err
    finally:
        periods.write_text(before)
    assert not list(tmp_path.glob("?/scores.csv"))


def test_the_recipe_for_known_sites_stands_once():
    options = AgreeOptions(calibration="runs/sites")
    assert options.epochs == KNOWN_EPOCHS
    for kind in (NetworkOptions, TrainingOptions):
        for name, value in vars(kind()).items():
            assert getattr(options, name) == KNOWN_SITES.get(name, value), name


def test_the_table_compares_site_by_site():
    rows = [("test", m, f"s{i}", "gpp", "daily", v) for m, values in {"calibrated": (0.8, 0.6, 0.4), "network": (0.9, 0.5, np.nan), "default": (0, 0, 0)}.items() for i, v in enumerate(values)]
    scores = pd.DataFrame(rows, columns=["split", "method", "site", "target", "scale", "nse"])
    row = agreement_table(scores).loc["gpp"]
    assert row.sites == 2 and row.ahead == 0.5 and np.isclose(row.calibrated, 0.7) and np.isclose(row.network, 0.7) and np.isclose(row.ratio, 1)
    assert np.isnan(agreement_table(scores.assign(nse=-scores.nse)).loc["gpp"].ratio)
    with pytest.raises(ValueError, match="no site has a daily nse"):
        agreement_table(scores[scores.method != "network"])
