"""The sequence network: the same result by any way, nothing learned from sites held out, bad input refused."""

import numpy as np
import pytest
import xarray as xr

from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.data.sites import prepare
from hybridecosys.learning.sequence import SequenceModel, SequenceOptions, make_records, record_costs
from hybridecosys.model.twin import synthetic_cube

SMALL = SequenceOptions(hidden=8, embed=4, window=120, warmup=30, windows=2)


@pytest.fixture(scope="module")
def cube():
    return synthetic_cube(n_sites=6, years=1, spinup="none")


def model(**kwargs):
    return SequenceModel(**{"features": ["igbp", "bioclim"], "options": SMALL} | kwargs)


FIT = dict(batch_size=4, learning_rate=0.01, progress=False, noise=0.1, average=0.5, decay=False, keep="best")


def fit(m, cube, epochs=2, **kwargs):
    return m.fit(cube.isel(site=slice(0, 4)), cube.isel(site=slice(4, 6)), epochs, **FIT | kwargs)


def test_resume_is_exact_and_seeds_decide(cube, tmp_path):
    whole = fit(model(), cube, 4, run_dir=tmp_path / "whole")
    fit(model(), cube, 2, run_dir=tmp_path / "part")
    resumed = fit(model(), cube, 4, run_dir=tmp_path / "part", resume=True)
    expected = whole.simulate(cube)
    xr.testing.assert_equal(resumed.simulate(cube), expected)
    np.testing.assert_array_equal(resumed.losses.loss, whole.losses.loss)
    sites = prepare(cube)
    xr.testing.assert_equal(model().fit(sites.select(sites.names[:4]), sites.select(sites.names[4:]), 4, **FIT).simulate(sites), expected)
    assert not fit(model(seed=1), cube, 4).simulate(cube).equals(expected)
    with pytest.raises(FileExistsError, match="in use"):
        fit(model(), cube, 4, run_dir=tmp_path / "whole")
    with pytest.raises(ValueError, match="options differ"):
        fit(model(options=SequenceOptions(hidden=9)), cube, 4, run_dir=tmp_path / "whole", resume=True)


def test_sites_do_not_mix(cube):
    """Each site's prediction is its own, whatever other sites are there, and in which order."""
    m = fit(model(options=SequenceOptions("lstm", hidden=8, window=120, warmup=30, windows=1)), cube)
    alone = xr.concat([m.simulate(cube.isel(site=[i])) for i in (3, 0)], "site")
    xr.testing.assert_allclose(alone.drop_attrs(), m.simulate(cube).isel(site=[3, 0]).drop_attrs(), rtol=1e-4, atol=1e-4)


def test_validation_costs_are_those_of_the_predictions(cube):
    m = fit(model(features=[]), cube, patience=1)
    best = m.losses[(m.losses.split == "valid")].pivot(index="epoch", columns="target", values="loss").loc[lambda t: [t.total.idxmin()]]
    held = cube.isel(site=slice(4, 6))
    run = m.simulate(held)
    from hybridecosys.data.observations import observations

    costs = record_costs({n: run[n].values for n in run}, make_records(prepare_forcing(held), observations(held), 0))
    for target, cost in costs.items():
        np.testing.assert_allclose(np.nanmean(cost), best[target].item(), rtol=1e-4)


def test_records_shorter_than_a_window(cube):
    short = cube.isel(time=slice(0, 100))
    m = fit(model(), short)
    assert np.isfinite(m.losses.loss).all() and bool(m.simulate(short).gpp.notnull().all())


def test_bad_input(cube):
    with pytest.raises(ValueError, match="cell"):
        SequenceOptions("rnn")
    with pytest.raises(ValueError, match="window"):
        SequenceOptions(window=10)
    with pytest.raises(ValueError, match="unknown feature group"):
        model(features=["igpb"])
    with pytest.raises(RuntimeError, match="not been trained"):
        model().simulate(cube)
    with pytest.raises(ValueError, match="both the training and the validation"):
        model().fit(cube, cube.isel(site=[0]))
    with pytest.raises(ValueError, match="ndvi"):
        fit(model(), cube, targets=["ndvi"])
    m = fit(model(), cube, targets=["gpp", "nee"])
    assert m.outputs == ("gpp", "nee")
    with pytest.raises(KeyError, match="eco_respiration"):
        m.simulate(cube, ["eco_respiration"])
