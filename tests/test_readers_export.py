"""Results for others: ALMA names and units, CF files, CalLMIP's layout."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridecosys.data.export import export, export_callmip, to_alma
from hybridecosys.data.fluxnet import sample_site
from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.data.units import convert, latent_heat_to_et
from hybridecosys.model.simulate import simulate
from hybridecosys.model.structure import wroasted


@pytest.fixture(scope="module")
def run():
    """Three years across 29 February 2012, two sites of the sample's weather."""
    site = sample_site()
    days = pd.date_range("2010-01-01", "2012-12-30")
    long = site.isel(time=np.arange(len(days)) % 730).assign_coords(time=days)
    both = xr.concat([long, long.assign_coords(site=["XX-Two"])], "site", data_vars="all", coords="minimal", compat="override", join="outer")
    return simulate(wroasted(), prepare_forcing(both, on_gap="longest"), spinup="none")


def test_alma_units_go_back_to_the_models(run):
    alma = to_alma(run)
    for name, other, unit in (("GPP", "gpp", None), ("NEE", "nee", None), ("Reco", "eco_respiration", None), ("TVeg", "transpiration", "mm d-1")):
        back = convert(alma[name], unit) if unit else alma[name] * 1000 * 86400
        np.testing.assert_allclose(back, run[other], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(latent_heat_to_et(alma.Qle), run.evapotranspiration, rtol=1e-6)
    np.testing.assert_allclose(alma.SoilMoist.sum("level"), run.soil_1 + run.soil_2 + run.soil_3 + run.soil_4, rtol=1e-6)
    np.testing.assert_allclose(alma.TotLivBiom * 1000, run.leaf + run.root + run.wood + run.reserve, rtol=1e-6)
    np.testing.assert_allclose(alma.Evap, alma.TVeg + alma.ESoil, rtol=1e-4, atol=1e-10)
    assert alma.NEE.attrs["positive"] == "up" and alma.attrs["model"] == "wroasted" and "wue" in alma.attrs["left_out"]


def test_everything_is_translated_or_named(run):
    """Nothing of a run is dropped without being named."""
    from hybridecosys.data.export import _LITTER, _LIVING, _OLD, NAMES

    translated = {*NAMES.index, *_LIVING, *_LITTER, *_OLD, *(f"soil_{i}" for i in range(1, 5))}
    left = set(to_alma(run).attrs["left_out"].split(", "))
    assert translated.isdisjoint(left) and set(run.data_vars) <= translated | left


@pytest.mark.parametrize("names", ["model", "alma"])
@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_files_give_the_run_back(tmp_path, run, names, ending):
    path = export(run, tmp_path / f"run{ending}", names=names)
    path = export(run, path, names=names)  # what is there is replaced
    back = xr.open_zarr(path, chunks=None) if ending == ".zarr" else xr.load_dataset(path)
    expected = to_alma(run) if names == "alma" else run
    for name in expected.data_vars:
        np.testing.assert_array_equal(back[name], expected[name], err_msg=name)
    assert (back.time.values == run.time.values).all() and back.attrs["featureType"] == "timeSeries"
    widths = np.diff(back.time_bnds.values.astype("datetime64[D]"), axis=1).astype(int)
    assert (widths == 1).all() and "latitude" in back.coords
    assert not [v for v in back.variables if "C" in back[v].attrs.get("units", "").replace("degC", "")]


def test_forcing_can_be_exported(tmp_path):
    forcing = prepare_forcing(sample_site())
    back = xr.load_dataset(export(forcing, tmp_path / "forcing.nc"))
    np.testing.assert_array_equal(back.precip, forcing.precip)
    assert back.co2.attrs["units"] == "1e-6" and back.precip.attrs["units"] == "kg m-2 d-1"


def test_callmip_layout(tmp_path, run):
    """What the protocol's checklist asks: name, dimensions, scalars, units, sign, every day, attributes."""
    paths = export_callmip(run, tmp_path / "out", model="hybridecosys", version="v1", scenario=2, stage="Posterior", role="Validation")
    assert [p.name for p in paths] == [f"hybridecosys.v1_Phase1b_Scen2_{s}_Val_Posterior.nc" for s in ("US-AR1", "XX-Two")]
    netCDF4 = pytest.importorskip("netCDF4", reason="netCDF4, which reads the file as CalLMIP does, is a package of development")
    with netCDF4.Dataset(paths[0]) as ds:
        days = pd.date_range("2010-01-01", "2012-12-30")
        days = days[: len(ds.dimensions["time"])]
        assert {k: len(v) for k, v in ds.dimensions.items()} == {"time": len(days), "lat": 1, "lon": 1}
        assert ds["lat"].shape == () and float(ds["lat"][...]) == pytest.approx(36.4267) and ds["lon"].units == "degrees_east"
        assert ds["time"].units == "days since 2010-01-01 00:00:00" and (np.diff(ds["time"][:]) == 1).all()
        units = {"nep": "kgC m-2 s-1", "gpp": "kgC m-2 s-1", "reco": "kgC m-2 s-1", "hfls": "W m-2", "tran": "kg m-2 s-1", "evspsblsoi": "kg m-2 s-1",
                 "cLiveBioAbove": "kg m-2", "cSoil": "kg m-2", "mrso": "kg m-2"}  # fmt: skip
        assert {k: ds[k].units for k in ds.variables if ds[k].ndim == 3} == units
        assert (ds.Model, ds.CalLMIP_Phase, ds.Calibration_Scenario, ds.Calibration_stage, ds.Cal_Val) == ("hybridecosys.v1", "Phase1b", "Scen2", "Posterior", "Validation")
        nep, own = ds["nep"][:, 0, 0], run.nee.sel(site="US-AR1").to_series().reindex(days)
        leap = (days.month == 2) & (days.day == 29)
        assert leap.sum() == 1
        np.testing.assert_allclose(nep[~leap], -own[~leap] * 1e-3 / 86400, rtol=1e-6)
        at = np.flatnonzero(leap)[0]
        assert nep[at] == pytest.approx((nep[at - 1] + nep[at + 1]) / 2)


def test_refused_by_name(tmp_path, run):
    with pytest.raises(ValueError, match="names must be one of model, alma, not 'cmip'"):
        export(run, tmp_path / "a.nc", names="cmip")
    with pytest.raises(ValueError, match="must end in .nc or .zarr"):
        export(run, tmp_path / "a.csv")
    with pytest.raises(ValueError, match="dimensions site and time are needed"):
        export(run.isel(site=0), tmp_path / "a.nc")
    with pytest.raises(ValueError, match="no output of the model in it; it has TA_F"):
        to_alma(sample_site()[["TA_F"]])
    with pytest.raises(ValueError, match="stage='prior'; one of Prior, Posterior"):
        export_callmip(run, tmp_path, model="m", version="v", stage="prior")
    with pytest.raises(ValueError, match="no latitude or longitude of site US-AR1"):
        export_callmip(run.drop_vars("latitude"), tmp_path, model="m", version="v")
    assert not list(tmp_path.glob("*"))
