"""Numbers inside their bounds that are of another unit or sign are named, with the figure that gives them away; good ones are not."""

import warnings

import numpy as np
import pytest
from cubes import small_cube

import hybridecosys as he
from hybridecosys.data.cube import canonical, open_cube, real_data_path, validate_cube
from hybridecosys.data.plausible import PLAUSIBLE, implausible, warn_implausible

FAULTS = {
    "VPD_F": 0.1, "VPD_F_DAY": 0.1, "SW_IN_F": 0.0864, "P_F": 1 / 48, "GPP_NT_VUT_REF": -1, "NEE_VUT_REF": -1, "RECO_NT_VUT_REF": -1, "LE_F_MDS": 0.0864,
    "T": 28.4, "latitude": -1, "agb": 1e-3, "whc": 1e-3, "field_capacity": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def cube():
    return he.synthetic_cube(n_sites=8, years=2, seed=0)


def spoilt(cube, name, factor, sites=None):
    """`cube` with one variable times a factor (at some sites), its label unchanged."""
    there = cube.site.isin(cube.site.values if sites is None else sites)
    return cube.assign({name: (cube[name].where(~there, cube[name] * factor)).transpose(*cube[name].dims).assign_attrs(cube[name].attrs)})


def messages(f):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        f()
    return [str(w.message) for w in said if "is it" in str(w.message)]


def test_good_cubes_are_not_suspected(cube):
    assert implausible(cube).empty and not messages(lambda: validate_cube(cube)) and not messages(lambda: he.prepare_forcing(cube))
    assert implausible(small_cube()).empty


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_unit_or_sign_is_named_with_its_sites_and_nothing_else(cube, name):
    bad = spoilt(cube, name, FAULTS[name])
    found = implausible(bad)
    assert set(found.variable) == {name}
    assert len(found) >= (cube.sizes["site"] if name in ("VPD_F", "SW_IN_F", "P_F") else 1)
    one = str(found.site.iloc[0])
    assert list(implausible(spoilt(cube, name, FAULTS[name], [one])).site) == [one]


@pytest.mark.parametrize("name", ["VPD_F", "SW_IN_F", "P_F", "LE_F_MDS"])
def test_the_right_label_removes_the_suspicion(cube, name):
    unit = {"VPD_F": "kPa", "SW_IN_F": "MJ m-2 d-1", "P_F": "mm d-1", "LE_F_MDS": "MJ m-2 d-1"}[name]
    bad = spoilt(cube, name, FAULTS[name])
    told = bad.assign({name: (bad[name] * (48 if name == "P_F" else 1)).assign_attrs(units=unit)})
    assert implausible(told).empty


def test_every_door_warns_once_for_each_variable(cube, tmp_path):
    bad = spoilt(spoilt(cube, "VPD_F", 0.1), "GPP_NT_VUT_REF", -1)
    bad.drop_vars("true_parameters").to_netcdf(tmp_path / "bad.nc")
    doors = [lambda: validate_cube(bad), lambda: open_cube(tmp_path / "bad.nc"), lambda: he.prepare_forcing(bad)]
    for door in doors:
        said = messages(door)
        assert [m.split(":")[0] for m in said] == ["VPD_F", "GPP_NT_VUT_REF"] and str(cube.site.values[0]) in said[0]
    there = open_cube(tmp_path / "bad.nc")
    assert not messages(lambda: he.prepare_forcing(there)), "what the reader has said is not said again"
    assert "VPD_F at" in he.prepare_forcing(there).attrs["implausible"]
    assert messages(lambda: validate_cube(there.assign(VPD_F=(there.VPD_F / 2).assign_attrs(there.VPD_F.attrs)))), "of other numbers it is"


def test_fit_warns_too(cube):
    part = spoilt(cube, "SW_IN_F", 0.0864).isel(site=[0, 1], time=slice(0, 365))
    hybrid = he.HybridModel(he.wroasted(), ["traits"], seed=0, spinup="none")

    def fit():
        with pytest.raises(ValueError, match="traits"):  # that it stops there spares the compilation
            hybrid.fit(part, None, epochs=1, progress=False, targets=["gpp"])

    assert [m for m in messages(fit) if m.startswith("SW_IN_F")]


def test_values_stay_as_they_are(cube):
    bad = canonical(spoilt(cube, "LE_F_MDS", 0.0864))
    with pytest.warns(UserWarning, match="LE_F_MDS"):
        marked = warn_implausible(bad)
    assert marked.equals(bad) and warn_implausible(marked) is marked


def test_few_days_or_no_latitude_are_no_reason(cube):
    bad = spoilt(cube, "VPD_F", 0.1)
    assert implausible(bad.isel(time=slice(0, 20))).empty
    assert set(implausible(spoilt(bad, "P_F", 1 / 48).isel(time=slice(0, 200))).variable) == {"VPD_F"}, "a sum of a year wants a year"
    assert set(implausible(spoilt(cube, "SW_IN_F", 0.0864).drop_vars("latitude")).variable) <= {"LE_F_MDS"}


def test_extremes_of_temperature_are_not_needed(cube):
    bare = cube.drop_vars(["TA_F_MIN", "TA_F_MAX", "TA_F_DAY", "VPD_F_DAY"])
    assert implausible(bare).empty and set(implausible(spoilt(bare, "VPD_F", 0.1)).variable) == {"VPD_F"}


def test_table_of_figures_is_whole():
    assert PLAUSIBLE.index.is_unique and (PLAUSIBLE.lower < PLAUSIBLE.upper).all() and (PLAUSIBLE[["suspicion", "what", "at_towers"]] != "").all(axis=None)


@pytest.mark.parametrize("name", ["fluxnet/fluxnet2015_daily.nc", "fluxnet/fluxnet2015_more_sites.nc"])
def test_real_cubes_are_not_suspected_and_their_faults_are_found(name):
    path = real_data_path(name)
    if path is None:
        pytest.skip("the real cubes are not beside the checkout")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        real = open_cube(path, out_of_range="missing")
    assert implausible(real).empty
    part = real.isel(site=slice(0, None, 5))
    for variable, share in (("VPD_F", 1.0), ("SW_IN_F", 1.0), ("P_F", 0.95), ("GPP_NT_VUT_REF", 1.0), ("LE_F_MDS", 0.8)):
        if variable in part:
            found = implausible(spoilt(part, variable, FAULTS[variable]))
            known = int(np.isfinite(part[variable]).any("time").sum())
            assert (found.variable == variable).sum() >= share * known, variable
