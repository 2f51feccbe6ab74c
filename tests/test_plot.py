"""Quick pictures: what stands on their axes, where they draw, and what they refuse."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.axes import Axes

import hybridecosys as he
from hybridecosys.evaluation.metrics import example_pair
from hybridecosys.processes.photosynthesis import preles


@pytest.fixture(autouse=True)
def nothing_stays_open():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def pair():
    return example_pair(n_sites=6, years=2)


@pytest.fixture(scope="module")
def table(pair):
    return he.evaluate(*pair, scales=["daily"])


def test_the_module_comes_when_it_is_named():
    code = "import sys, hybridecosys as he; before = 'matplotlib' in sys.modules; he.plot.series; print(before, 'plot' in dir(he))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["False", "True"]


def drawings(pair, table) -> dict:
    """A call of each function."""
    run, cube = pair
    site = str(cube.site.values[0])
    model = he.wroasted()
    values = xr.Dataset({n: ("site", np.full(2, model.parameters.default[n])) for n in ("gpp_temperature.t_opt", "wue.kappa")})
    return {"series": lambda **k: he.plot.series(run, cube, site=site, **k), "seasons": lambda **k: he.plot.seasons(run, cube, site=site, **k),
            "response": lambda **k: he.plot.response(preles, "vpd_day", co2=400, **k), "scores": lambda **k: he.plot.scores(table, "rmse", targets=["evapotranspiration"], **k),
            "parameters": lambda **k: he.plot.parameters(values, model, **k), "map": lambda **k: he.plot.map(run.gpp.isel(time=0).assign_attrs(units="gC m-2 d-1"), cube, **k)}


UNIT = {"series": "gC m$^{-2}$ d$^{-1}$", "seasons": "gC m$^{-2}$ d$^{-1}$", "response": "kPa", "scores": "mm d$^{-1}$", "parameters": "°C", "map": "gC m$^{-2}$ d$^{-1}$"}


@pytest.mark.parametrize("name", UNIT)
def test_it_draws_where_it_is_told_with_units_on_its_axes(pair, table, name):
    draw, (_, ax) = drawings(pair, table)[name], plt.subplots()
    assert draw(ax=ax) is ax and len(plt.get_fignums()) == 1
    texts = [ax.get_xlabel(), ax.get_ylabel(), *(t.get_text() for t in ax.get_yticklabels()), *(a.get_ylabel() for a in ax.figure.axes)]
    assert any(UNIT[name] in t for t in texts), texts
    own = draw()
    assert isinstance(own, Axes) and own.figure is not ax.figure
    with pytest.raises(TypeError, match="ax must be a matplotlib Axes"):
        draw(ax=plt.subplots())


def test_the_lines_are_the_numbers(pair):
    run, cube = pair
    site = str(cube.site.values[2])
    ax = he.plot.series({"a": run, "b": run * 0}, cube, "gpp", site)
    seen, a, b = (line.get_ydata() for line in ax.lines)
    assert np.array_equal(seen, he.observations(cube).gpp.sel(site=site) if "GPP_NT_VUT_REF" in cube else cube.gpp.sel(site=site), equal_nan=True)
    assert np.array_equal(a, run.gpp.sel(site=site)) and not b.any()
    one = he.plot.response(preles, "vpd_day", (0, 2), co2=[300, 400])
    assert np.allclose(one.lines[1].get_ydata()[-1], preles(2.0, 400.0, **{n: p.default for n, p in preles.parameters.items()}))


@pytest.mark.parametrize("call, error, says", [
    (lambda run, cube, table: he.plot.series(run, cube), ValueError, "say which site"),
    (lambda run, cube, table: he.plot.series(run, cube, "gp", "XX-001"), ValueError, "did you mean 'gpp'"),
    (lambda run, cube, table: he.plot.series(run, cube, "gpp", "XX-01"), ValueError, "did you mean 'XX-001'|no site 'XX-01'"),
    (lambda run, cube, table: he.plot.series(run.gpp, cube), TypeError, "runs must be"),
    (lambda run, cube, table: he.plot.series(run, cube, "gpp", "XX-001", start="2050-01-01"), ValueError, "no daily observation"),
    (lambda run, cube, table: he.plot.seasons(run, cube, "gpq", "XX-001"), ValueError, "did you mean 'gpp'"),
    (lambda run, cube, table: he.plot.response(preles, "vpd"), TypeError, "did you mean 'vpd_day'"),
    (lambda run, cube, table: he.plot.response(preles, "vpd_day"), ValueError, "also reads co2"),
    (lambda run, cube, table: he.plot.response(preles, "vpd_day", co2=[3, 4], kappa=[1, 2]), ValueError, "only one argument"),
    (lambda run, cube, table: he.plot.response("preles", "vpd_day"), TypeError, "an approach"),
    (lambda run, cube, table: he.plot.scores(table, "nes"), ValueError, "did you mean 'nse'"),
    (lambda run, cube, table: he.plot.scores(table, "rmse"), ValueError, "no common unit"),
    (lambda run, cube, table: he.plot.scores(pd.concat([table, table])), ValueError, "scored twice"),
    (lambda run, cube, table: he.plot.parameters(xr.Dataset({"a.b": ("site", [1.0])})), ValueError, "give the model"),
    (lambda run, cube, table: he.plot.map(run.gpp, cube), ValueError, "take a mean"),
    (lambda run, cube, table: he.plot.map(run, cube), TypeError, "DataArray"),
    (lambda run, cube, table: he.plot.map(run.gpp.isel(time=0, drop=True).drop_vars(["latitude", "longitude"])), ValueError, "where=cube"),
])
def test_what_cannot_be_drawn_is_refused_with_what_to_do(pair, table, call, error, says):
    with pytest.raises(error, match=says):
        call(*pair, table)
    assert not plt.get_fignums(), "a figure was opened before the error"
