"""Sites are prepared once: each verb gives the same for a cube and for what is prepared of it, prepares a cube once, and what is prepared never."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import hybridecosys as he
from hybridecosys.data import sites as sites_module
from hybridecosys.data.observations import TARGETS
from hybridecosys.data.sites import prepared, records, without_days
from hybridecosys.evaluation.over_sites import site_table
from hybridecosys.learning.together import fit_together
from hybridecosys.study.folds import check_folds, make_folds, neighbourhoods


@pytest.fixture(scope="module")
def cube():
    return he.synthetic_cube(n_sites=6, years=2, seed=3, spinup="none")


@pytest.fixture(scope="module")
def sites(cube):
    return he.prepare(cube)


@pytest.fixture
def count(monkeypatch):
    """How often a cube was prepared."""
    calls, real = [], sites_module.prepare_forcing
    monkeypatch.setattr(sites_module, "prepare_forcing", lambda cube, **options: calls.append(cube.sizes["site"]) or real(cube, **options))
    return calls


def test_parts_of_what_is_prepared_are_what_is_prepared_of_parts(cube, sites):
    names = [sites.names[4], sites.names[1]]
    part, alone = sites.select(names), he.prepare(cube.sel(site=names))
    xr.testing.assert_identical(part.cube, alone.cube)
    for name in alone.forcing:
        xr.testing.assert_identical(part.forcing[name], alone.forcing[name])
    assert [list(x) for x in part.record] == [list(x) for x in records(part.forcing)]
    xr.testing.assert_identical(part.observed(["gpp", "nee"]), alone.observed(["gpp", "nee"]))
    assert part.select(names[0]).names == (names[0],) and len(part) == 2


def test_what_is_hidden_cannot_be_seen(cube, sites):
    days = cube.time.dt.year == int(cube.time.dt.year[-1])
    blind = sites.hide(days)
    xr.testing.assert_identical(blind.forcing, he.prepare_forcing(without_days(cube, days)))
    seen = blind.observed()
    assert all(seen[t].sel(time=days).isnull().all() and seen[t].sel(time=~days).equals(sites.observed()[t].sel(time=~days)) for t in seen if "time" in seen[t].dims)
    absurd = cube.assign({v: cube[v].where(~days, 0.77) for v in TARGETS.variable if v in cube and "time" in cube[v].dims})
    other = he.prepare(absurd).hide(days)
    xr.testing.assert_equal(other.forcing, blind.forcing)
    xr.testing.assert_equal(other.cube, blind.cube)


def test_greenness_that_drives_is_not_hidden(cube):
    options = he.wroasted(greenness="observed").forcing_options()
    green = he.prepare(cube, **options)
    days = cube.time.dt.year > 0
    assert green.hide(days).cube.FAPAR.equals(cube.FAPAR) and green.hide(days).forcing.greenness.equals(green.forcing.greenness)
    assert green.hide(days).cube.GPP_NT_VUT_REF.isnull().all()


def test_the_best_years_are_those_with_most_observations(cube, sites):
    few = cube.copy(deep=True)
    for name in TARGETS.variable:
        if name in few and "time" in few[name].dims:
            few[name][:, :365] = np.nan
    assert list(he.prepare(few).best_years(1).record[0]) == [365] * 6
    assert all((mine == whole).all() for mine, whole in zip(sites.best_years(9).record, sites.record))


def test_a_run_of_the_model(cube, sites, count):
    options = dict(spinup="none", outputs=["gpp", "nee"])
    expected = he.simulate(he.wroasted(), he.prepare_forcing(cube), **options)
    xr.testing.assert_identical(he.simulate(he.wroasted(), sites, **options), expected)
    assert not count
    xr.testing.assert_identical(he.simulate(he.wroasted(), cube, **options), expected)
    assert count == [6]


def test_nothing_is_changed_in_place(cube, sites):
    before = sites.cube.copy(deep=True), sites.forcing.copy(deep=True)
    sites.select(sites.names[:2]), sites.hide(cube.time.dt.year > 0), sites.best_years(1), sites.observed().update({"gpp": sites.observed().gpp * 0})
    xr.testing.assert_identical(sites.cube, before[0])
    xr.testing.assert_identical(sites.forcing, before[1])
    assert float(sites.observed().gpp.max()) > 0
    with pytest.raises(AttributeError):
        sites.cube = cube


def test_what_cannot_be_meant_is_refused(cube, sites):
    with pytest.raises(ValueError, match="is not among these sites"):
        sites.select(["XX-Abc"])
    with pytest.raises(ValueError, match="prepared already"):
        he.prepare(sites.forcing)
    with pytest.raises(TypeError, match="open_cube"):
        he.prepare("cube.nc")
    with pytest.raises(ValueError, match="prepared with on_gap='error', but on_gap='longest' is asked for"):
        prepared(sites, {"on_gap": "longest"})
    with pytest.raises(ValueError, match="the forcing lacks greenness"):
        he.simulate(he.wroasted(greenness="observed"), sites, spinup="none")


MODEL, TRAINING = he.bucket(), dict(epochs=1, batch_size=2, max_years=1, progress=False)


def hybrid(seed=0, **options):
    return he.HybridModel(MODEL, ["igbp"], seed, spinup="none", **options)


def part(given, names):
    return given.select(names) if isinstance(given, he.Sites) else given.sel(site=names)


def fit(given, names, folder):
    h = hybrid().fit(part(given, names[:4]), part(given, names[4:]), **TRAINING)
    return h.predict_parameters(given).merge(h.simulate(given, ["gpp"]))


def together(given, names, folder):
    pair = fit_together([hybrid(0), hybrid(1)], given, [names[:4], names[2:]], **TRAINING)
    return pair[1].predict_parameters(given)


def calibrate(given, names, folder):
    found = he.calibrate(MODEL, given, spinup="none", starts=1, steps=1, progress=False)
    return found.parameters.merge(found.simulate(given, ["gpp"]))


def cross_validate(scheme, given, names, folder):
    found = he.cross_validate(given, scheme, ["default"], run_dir=folder / "run", k=2, features=["igbp"], spinup="none", model=MODEL, progress=False)
    return found.scores.to_xarray()


VERBS = {"fit": (fit, [4, 2, 6]), "fit_together": (together, [6]), "calibrate": (calibrate, [6, 6]), "folds of sites": (partial(cross_validate, "kfold"), [6]),
         "folds of years": (partial(cross_validate, "time"), [6])}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_a_cube_or_what_is_prepared(verb, cube, sites, count, tmp_path):
    call, prepares = VERBS[verb]
    mine = call(sites, list(sites.names), tmp_path / "sites")
    assert not count
    xr.testing.assert_identical(mine, call(cube, list(sites.names), tmp_path / "cube"))
    assert count == prepares  # once for each cube that is given to a verb


def test_scores_of_a_run(cube, sites, count):
    run = he.simulate(MODEL, sites, spinup="none")
    targets = ["gpp", "evapotranspiration"]
    assert he.evaluate(run, sites, targets).equals(he.evaluate(run, cube, targets)) and not count


@pytest.mark.parametrize("scheme", ["kfold", "type", "climate", "time"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of types that six sites lack
def test_folds_of_a_cube_or_of_what_is_prepared(scheme, cube, sites, count):
    table = make_folds(sites, scheme, k=2, min_sites=1)
    pd.testing.assert_frame_equal(table, make_folds(cube, scheme, k=2, min_sites=1))
    pd.testing.assert_frame_equal(check_folds(table, sites), check_folds(table, cube))
    pd.testing.assert_series_equal(neighbourhoods(sites), neighbourhoods(cube))
    assert not count


def test_tables_and_pictures_of_a_cube_or_of_what_is_prepared(cube, sites):
    run = he.simulate(he.bucket(), sites, spinup="none", outputs=["gpp"])
    pd.testing.assert_frame_equal(site_table(sites), site_table(cube))
    name = str(cube.site.values[1])
    for draw in (he.plot.series, he.plot.seasons):
        mine, theirs = (draw(run, given, "gpp", name) for given in (sites, cube))
        assert len(mine.lines) == len(theirs.lines) > 1
        for one, other in zip(mine.lines, theirs.lines):
            np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())
    places = [he.plot.map(run.gpp.mean("time"), where=given).collections[-1].get_offsets().tolist() for given in (sites, cube)]
    assert places[0] == places[1] and len(places[0]) == 6
    plt.close("all")


def test_hidden_days_are_not_seen_in_training(cube, sites):
    days = cube.time.dt.year == int(cube.time.dt.year[-1])
    absurd = cube.assign({v: (cube[v] * 0.5).where(days, cube[v]).assign_attrs(cube[v].attrs) for v in TARGETS.variable if v in cube and "time" in cube[v].dims})
    learned = [hybrid().fit(s.hide(days), **TRAINING).predict_parameters(s) for s in (sites, he.prepare(absurd))]
    xr.testing.assert_identical(*learned)


def test_a_model_refuses_sites_that_were_prepared_otherwise(cube, sites):
    for call in (lambda h: h.fit(sites), lambda h: fit_together([h], sites, [sites.names])):
        with pytest.raises(ValueError, match="prepared with max_gap=5, but max_gap=3 is asked for"):
            call(hybrid(forcing={"max_gap": 3}))
    with pytest.raises(ValueError, match="prepared with extra="):
        he.calibrate(he.wroasted(greenness="observed"), sites)
    with pytest.raises(ValueError, match="prepared with on_gap='error', but on_gap='longest'"):
        he.cross_validate(sites, run_dir="nowhere", forcing={"on_gap": "longest"})
