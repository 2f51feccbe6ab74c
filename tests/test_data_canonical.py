"""One cube in many forms: every entry of the package gives the same for all of them."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import hybridecosys as he
from hybridecosys.data.bioclim import aridity_index, bioclim, koppen_from_weather
from hybridecosys.data.cube import canonical, read_table
from hybridecosys.data.features import FeatureEncoder, site_features
from hybridecosys.study.folds import make_folds
from hybridecosys.evaluation.over_sites import site_table
from hybridecosys.learning.calibration import Calibration

GROUPS = ["igbp", "koppen", "bioclim", "soil", "site", "deposition", "greenness"]
OTHER_UNITS = {
    "TA_F": ("K", 1, 273.15), "TA_F_MIN": ("kelvin", 1, 273.15), "TA_F_MAX": ("K", 1, 273.15), "TA_F_DAY": ("K", 1, 273.15),
    "VPD_F": ("Pa", 100, 0), "VPD_F_DAY": ("kPa", 0.1, 0), "P_F": ("kg m-2 s-1", 1 / 86400, 0), "SW_IN_F": ("MJ m-2 d-1", 0.0864, 0),
    "sand": ("%", 100, 0), "clay": ("percent", 100, 0), "whc": ("m", 1e-3, 0), "elevation": ("mm", 1000, 0), "agb": ("kgC m-2", 1e-3, 0),
    "LE_F_MDS": ("MJ m-2 d-1", 0.0864, 0), "GPP_NT_VUT_REF": ("umolCO2 m-2 s-1", 1 / (12.011e-6 * 86400), 0), "NEE_VUT_REF_QC": ("%", 100, 0), "FAPAR": ("%", 100, 0),
}  # fmt: skip


@pytest.fixture(scope="module")
def cube():
    return he.synthetic_cube(n_sites=6, years=2, seed=0).drop_vars("true_parameters")


def in_other_units(c):
    for name, (unit, scale, shift) in OTHER_UNITS.items():
        if name in c:
            c = c.assign({name: (c[name] * scale + shift).assign_attrs(c[name].attrs | {"units": unit})})
    return c


def as_coordinates(c):
    return c.set_coords([k for k, v in c.data_vars.items() if v.dims == ("site",)])


FORMS = {
    "other units": in_other_units,
    "attributes as coordinates": as_coordinates,
    "both": lambda c: as_coordinates(in_other_units(c)),
    "sites as bytes": lambda c: c.assign_coords(site=c.site.values.astype("S")),
    "sites as objects": lambda c: c.assign_coords(site=c.site.values.astype(object)),
    "classes in lower case": lambda c: c.assign(igbp=("site", np.char.lower(c.igbp.values)), koppen=("site", np.char.lower(c.koppen.values))),
    "classes as bytes": lambda c: c.assign(igbp=c.igbp.astype("S")),
    "stamped at six": lambda c: c.assign_coords(time=c.time.values + np.timedelta64(6, "h")),
    "noleap calendar": lambda c: c.convert_calendar("noleap", use_cftime=True),
    "dimensions turned": lambda c: c.transpose("time", "site", ...),
    "longitudes from 0": lambda c: c.assign(longitude=((c.longitude % 360).assign_attrs(c.longitude.attrs))),
    "short names": lambda c: c.rename(latitude="lat", longitude="lon", elevation="elev", igbp="IGBP"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_reader_of_a_cube_sees_the_same(cube, form):
    other = FORMS[form](cube)
    for read in (canonical, he.prepare_forcing, he.observations, bioclim, aridity_index, koppen_from_weather, lambda c: site_features(c, groups=GROUPS),
                 lambda c: FeatureEncoder(GROUPS).fit_transform(c)):
        xr.testing.assert_allclose(read(other), read(cube), rtol=1e-5, atol=1e-7)
    pd.testing.assert_frame_equal(site_table(other), site_table(cube), check_exact=False, rtol=1e-6)
    pd.testing.assert_frame_equal(make_folds(other, k=3), make_folds(cube, k=3))


def test_canonical_is_idempotent_and_returns_what_is_already_so(cube):
    assert canonical(cube) is cube
    for form in FORMS.values():
        once = canonical(form(cube))
        assert canonical(once) is once
    untouched = in_other_units(cube)
    before = untouched.copy(deep=True)
    canonical(untouched)
    xr.testing.assert_identical(untouched, before)


def test_names_that_are_numbers(cube):
    for sites in (np.arange(1, 7), np.arange(1.0, 7.0), [str(i) for i in range(1, 7)]):
        assert list(canonical(cube.assign_coords(site=sites)).site.values) == list("123456")
    assert list(he.prepare_forcing(cube.assign_coords(site=[f"0{i}" for i in range(6)])).site.values[:2]) == ["00", "01"]
    with pytest.raises(ValueError, match="site number 2 has no name"):
        canonical(cube.assign_coords(site=np.array(["a", "b", np.nan, "d", "e", "f"], dtype=object)))


@pytest.mark.parametrize(
    "change, culprit",
    [
        (lambda c: c.assign_coords(elevation=c.elevation.assign_attrs(units="hPa")), "elevation: unit 'hPa'"),
        (lambda c: c.assign(igbp=("site", ["GRA", "wood", *["DBF"] * 4])), "site SY-002: igbp 'wood'"),
        (lambda c: c.assign(igbp=("site", [1, 4, 10, 12, 1, 1])), "site SY-001: igbp '1'"),
    ],
)
def test_every_reader_names_the_same_culprit(cube, change, culprit):
    for read in (canonical, he.prepare_forcing, he.observations, bioclim, site_features, make_folds):
        with pytest.raises(ValueError, match=culprit):
            read(change(cube))
    for read in (he.prepare_forcing, lambda c: site_features(c, groups=["soil"]), lambda c: FeatureEncoder(["soil"]).fit(c)):
        with pytest.raises(ValueError, match="whc: no unit"):
            read(cube.assign(whc=cube.whc.drop_attrs()))
    for read in (he.prepare_forcing, bioclim, aridity_index, koppen_from_weather):
        with pytest.raises(ValueError, match="TA_F: no unit"):
            read(cube.assign(TA_F=cube.TA_F.drop_attrs()))
    with pytest.raises(TypeError, match="not DataFrame"):
        canonical(pd.DataFrame())


def test_models_and_scores_are_the_same(cube):
    """A model fitted on one form predicts, simulates and is scored alike with any other; sites may be called by number or NA."""
    model = he.wroasted()
    hybrid = he.HybridModel(model, ["igbp", "bioclim", "soil"], spinup="none").fit(cube.isel(site=[0, 1, 2]), None, epochs=1, progress=False, targets=["gpp"])
    network = he.SequenceModel(["bioclim"], seed=0).fit(cube.isel(site=[0, 1, 2]), None, epochs=1, progress=False, targets=["gpp"])
    here = cube.isel(site=[3, 4])
    for other in (FORMS["both"](here), FORMS["stamped at six"](FORMS["classes in lower case"](here))):
        xr.testing.assert_allclose(hybrid.predict_parameters(other), hybrid.predict_parameters(here), rtol=1e-4)
        xr.testing.assert_allclose(network.simulate(other).drop_attrs(), network.simulate(here).drop_attrs(), rtol=1e-3, atol=1e-4)
    run = hybrid.simulate(here, ["gpp"])
    scores = he.evaluate(run, here, ["gpp"], scales=["daily"])
    for names in ([1, 2], [b"a", b"b"]):
        mine = he.evaluate(hybrid.simulate(here.assign_coords(site=names), ["gpp"]), in_other_units(here).assign_coords(site=names), ["gpp"], scales=["daily"])
        np.testing.assert_allclose(mine.nse, scores.nse, rtol=1e-3)
    with pytest.raises(ValueError, match="both the training and the validation"):
        hybrid.fit(here.assign_coords(site=[1, 2]), here.assign_coords(site=["1", "3"]), epochs=1)


def test_a_site_called_na_survives_every_table(cube, tmp_path):
    names = ["NA", "nan"]
    result = he.calibrate(he.wroasted(), cube.isel(site=[0, 1]).assign_coords(site=names), spinup="none", targets=["gpp"], learned=list(he.wroasted().learned[:1]), progress=False, steps=1, starts=1)
    result.save(tmp_path / "c")
    again = Calibration.load(tmp_path / "c")
    assert list(again.periods.index) == names and set(again.history.site) == set(names) == set(again.scores.site)
    pd.DataFrame({"site": names, "x": [1.0, np.nan]}).to_csv(tmp_path / "t.csv", index=False)
    assert list(read_table(tmp_path / "t.csv").site) == names and np.isnan(read_table(tmp_path / "t.csv").x[1])


def test_attributes_of_another_hemisphere_of_longitudes_keep_their_place(cube):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        east = canonical(cube.assign(longitude=("site", np.array([0.0, 180.0, 180.5, 359.5, -179.0, 90.0]), {"units": "degrees_east"})))
    np.testing.assert_allclose(east.longitude, [0, 180, -179.5, -0.5, -179, 90])
