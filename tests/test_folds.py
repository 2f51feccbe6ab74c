"""Folds of the real cube: every site tested once, no class met again, neighbours together, no day both trained on and tested."""

import warnings

import pandas as pd
import pytest

from hybridecosys.data.cube import open_cube, real_data_path
from hybridecosys.study.folds import SCHEMES, check_folds, make_folds, neighbourhoods
from hybridecosys.data.weather import synthetic_weather


@pytest.fixture(scope="module")
def cube():
    path = real_data_path()
    if path is None:
        pytest.skip("the real cube is absent: set HYBRIDECOSYS_DATA to the folder that holds fluxnet/fluxnet2015_daily.nc")
    return open_cube(path)


@pytest.fixture(scope="module", params=SCHEMES)
def folds(request, cube):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of records of one year, tested below
        return make_folds(cube, request.param)


def test_folds_are_sound(cube, folds):
    pd.testing.assert_frame_equal(check_folds(folds, cube), folds)
    tested = folds[folds.part == "test"]
    in_time = tested.begin.notna().all()
    if in_time:
        assert set(tested.groupby("site").fold.agg(set).map(frozenset)) == {frozenset({"earlier", "later"})}
    else:
        assert sorted(tested.site) == sorted(cube.site.values)
    for _, rows in folds.groupby("fold"):
        share = (rows.part == "valid").sum() / (rows.part != "test").sum()
        assert 0.1 < share < 0.2
        assert in_time or not rows.site.duplicated().any()


def test_classes_left_out_are_not_met_in_training(cube):
    igbp = pd.Series(cube.igbp.values, cube.site.values)
    folds = make_folds(cube, "type").assign(igbp=lambda f: f.site.map(igbp))
    for _, rows in folds.groupby("fold"):
        assert not set(rows[rows.part == "test"].igbp) & set(rows[rows.part != "test"].igbp)


def test_records_of_one_year_are_named(cube):
    with pytest.warns(UserWarning, match="within one year"):
        folds = make_folds(cube, "time")
    assert 0 < 109 - folds.site.nunique() < 12


def test_neighbours_share_a_part_in_every_scheme(cube, folds):
    near = neighbourhoods(cube)
    assert near.nunique() < len(near)
    parts = folds.assign(near=folds.site.map(near))
    if folds.begin.notna().any():  # every site is trained on and tested, in other years
        parts = parts[parts.part != "test"]
    assert (parts.groupby(["fold", "near"]).part.nunique() == 1).all()


@pytest.mark.parametrize("scheme", ["kfold", "type", "climate"])
@pytest.mark.parametrize("within", [0, 50, 2000])
def test_the_distance_is_kept_whatever_the_scheme(scheme, within):
    cube = synthetic_weather(n_sites=24, years=1, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small classes
        folds = make_folds(cube, scheme, k=3, min_sites=2, within=within)
    near = neighbourhoods(cube, within)
    assert (near.nunique() < 24) == (within == 2000)
    for _, rows in folds.groupby("fold"):
        tested = set(near[rows.site[rows.part == "test"]])
        assert not tested & set(near[rows.site[rows.part != "test"]])


@pytest.mark.parametrize("within", [-1, float("nan"), float("inf")])
def test_a_distance_that_is_none_is_refused(within):
    with pytest.raises(ValueError, match="within"):
        make_folds(synthetic_weather(n_sites=4, years=1), k=2, within=within)
