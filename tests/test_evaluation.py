"""Evaluation: metrics against formulas written out by hand, gaps, scales, bad input, figures, and the report of a run."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

from hybridecosys.data.observations import TARGETS
from hybridecosys.evaluation import agreement, figures
from hybridecosys.evaluation import metrics as hm
from hybridecosys.evaluation import over_sites as ho
from hybridecosys.evaluation import summary as hs
from hybridecosys.evaluation.report import write_report


@pytest.fixture(scope="module")
def pair():
    return hm.example_pair(n_sites=6, years=6, seed=1)


@pytest.fixture(scope="module")
def scores(pair):
    return hm.evaluate(*pair)


def series(*values):
    return xr.DataArray(
        np.array(values, float), dims="time", coords={"time": pd.date_range("2001-01-01", periods=len(values))}
    )


# ---- metrics ----------------------------------------------------------------------------------------------------


def test_metrics_by_hand():
    y, m = np.array([1.0, 2, 4, 7]), np.array([1.5, 1.0, 5, 6])
    r = np.corrcoef(m, y)[0, 1]
    nse = 1 - 3.25 / 21.0  # sum of squares 0.25 + 1 + 1 + 1; around the mean 3.5: 6.25 + 2.25 + 0.25 + 12.25
    expected = {
        hm.nse: nse,
        hm.nnse: 1 / (2 - nse),
        hm.rmse: np.sqrt(3.25 / 4),
        hm.bias: -0.125,
        hm.correlation: r,
        hm.kge: 1 - np.sqrt((r - 1) ** 2 + (m.std() / y.std() - 1) ** 2 + (m.mean() / y.mean() - 1) ** 2),
        hm.nmae1r: 0.875 / 4.5,
    }
    for metric, value in expected.items():
        assert float(metric(series(*m), series(*y))) == pytest.approx(value, rel=1e-12), metric.__name__


@pytest.mark.parametrize("name", hm.METRICS)
def test_gaps_on_either_side_are_masked(name):
    metric = getattr(hm, name)
    nan = np.nan
    whole = metric(series(1.5, 1, 5, 6), series(1, 2, 4, 7))
    gappy = metric(series(1.5, nan, 1, 5, 99, 6), series(1, 50, 2, 4, nan, 7))
    assert float(gappy) == pytest.approx(float(whole), rel=1e-12)


def test_perfect_and_mean_models():
    y = series(1, 2, 4, 7)
    assert float(hm.nse(y, y)) == 1 and float(hm.nnse(y, y)) == 1 and float(hm.kge(y, y)) == pytest.approx(1)
    mean = series(3.5, 3.5, 3.5, 3.5)
    assert float(hm.nse(mean, y)) == pytest.approx(0) and float(hm.nnse(mean, y)) == pytest.approx(0.5)
    assert np.isnan(hm.correlation(mean, y)) and np.isnan(hm.kge(mean, y))


# ---- scales -----------------------------------------------------------------------------------------------------


def daily(values_of_date, years=range(2001, 2007)):
    time = pd.date_range(f"{years[0]}-01-01", f"{years[-1]}-12-31")
    time = time[~((time.month == 2) & (time.day == 29))]
    return xr.DataArray(
        np.array(values_of_date(time), float)[None], dims=("site", "time"), coords={"site": ["A"], "time": time}
    )


def test_each_scale_sees_its_own_part():
    season = daily(lambda t: t.month)
    years = daily(lambda t: t.month + 0.5 * (t.year - 2003))
    m, y = hm.at_scale(years, season, "seasonal")
    np.testing.assert_allclose(y[0], np.arange(1, 13))
    np.testing.assert_allclose(m[0], np.arange(1, 13) + 0.25)
    m, y = hm.at_scale(years, season, "anomaly")
    np.testing.assert_allclose(y, 0, atol=1e-12)
    np.testing.assert_allclose(m.mean("month")[0], 0.5 * (np.arange(2001, 2007) - 2003.5), atol=1e-12)
    m, _ = hm.at_scale(years, season, "interannual")
    np.testing.assert_allclose(m[0], 0.5 * (np.arange(2001, 2007) - 2003.5), atol=1e-12)


def test_annual_is_a_sum_for_a_flux_and_a_mean_otherwise():
    two = daily(lambda t: np.full(t.size, 2.0))
    assert np.allclose(hm.at_scale(two, two, "annual")[1], 730)
    assert np.allclose(hm.at_scale(two, two, "annual", per_day=False)[1], 2)
    half = two.where(two.time.dt.month != 7)
    assert hm.at_scale(half, half, "annual")[1].isnull().all()  # no July, no sum


def test_months_need_ten_days_and_anomalies_three_years():
    x = daily(lambda t: t.day_of_year)
    x = x.where((x.time.dt.month != 3) | (x.time.dt.day <= 9)).where((x.time.dt.month != 5) | (x.time.dt.year < 2003))
    months = agreement.monthly_means(x)
    assert months.sel(month=3).isnull().all() and months.sel(month=5).notnull().sum() == 2
    anomaly, _ = hm.at_scale(x, x, "anomaly")
    assert anomaly.sel(month=5).isnull().all() and anomaly.sel(month=6).notnull().all()


def test_unsorted_days_are_refused():
    with pytest.raises(ValueError, match="sorted"):
        agreement.monthly_means(daily(lambda t: t.month).isel(time=slice(None, None, -1)))


# ---- evaluate ---------------------------------------------------------------------------------------------------


def test_unobserved_days_of_the_run_never_matter(pair, scores):
    run, obs = pair
    rng = np.random.default_rng(0)
    spoiled = run.copy(deep=True)
    shared = obs[["gpp", "nee", "reco"]].rename(reco="eco_respiration")
    for name in shared:
        spoiled[name] = run[name].where(shared[name].notnull(), rng.normal(0, 100, run[name].shape))
    spoiled["nee"] = run.nee.where(obs.nee.notnull())  # NaN there is no harm either
    again = hm.evaluate(spoiled, obs, targets=["gpp", "nee", "reco"])
    pd.testing.assert_frame_equal(
        again, scores[scores.target.isin(["gpp", "nee", "reco"])].reset_index(drop=True), rtol=1e-9
    )


def test_rows_equal_single_site_metrics(pair, scores):
    run, obs = pair
    row = scores.query("site == 'XX-004' and target == 'reco' and scale == 'daily'").iloc[0]
    m, y = run.eco_respiration.sel(site="XX-004").values, obs.reco.sel(site="XX-004").values
    m, y = m[~np.isnan(y)], y[~np.isnan(y)]
    assert row.n == y.size and row.unit == "gC m-2 d-1"
    assert row.nse == pytest.approx(1 - ((m - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert row.bias == pytest.approx((m - y).mean())


def test_biomass_is_scored_once_against_the_mean(pair, scores):
    run, obs = pair
    row = scores.query("site == 'XX-002' and target == 'agb'").iloc[0]
    y, m = float(obs.agb[2]), float(run.aboveground_biomass[2].mean())
    assert row.scale == "record" and row.n == 1 and np.isnan(row.nse)
    assert row.nmae1r == pytest.approx(abs(m - y) / (1 + y))


def test_sites_meet_by_name_and_dates(pair, scores):
    run, obs = pair
    run = run.isel(site=[5, 0, 3], time=slice(None, None, 1))
    part = hm.evaluate(run, obs.isel(time=slice(365, None)), targets="gpp", scales="daily")
    assert list(part.site) == ["XX-005", "XX-000", "XX-003"]
    y = obs.gpp.isel(time=slice(365, None)).sel(site="XX-000")
    assert part.nse[1] == pytest.approx(float(hm.nse(run.gpp.sel(site="XX-000", time=y.time), y)))


def test_too_few_points_give_nan_and_say_how_many(pair):
    run, obs = pair
    few = obs[["gpp"]].copy(deep=True)
    few.gpp[0, 20:] = np.nan
    few.gpp[1] = np.nan
    table = hm.evaluate(run, few, scales="daily").set_index("site")
    assert np.isnan(table.nse["XX-000"]) and 0 < table.n["XX-000"] < 20
    assert "XX-001" not in table.index and np.isfinite(table.nse["XX-002"])


def test_cube_with_fluxnet_names(pair):
    run, obs = pair
    units = {"GPP_NT_VUT_REF": "gC m-2 d-1", "LE_F_MDS": "W m-2"}
    cube = xr.Dataset({"GPP_NT_VUT_REF": obs.gpp.fillna(0) * 0.999, "LE_F_MDS": obs.evapotranspiration * 2.45 / 0.0864})
    cube["NEE_VUT_REF_QC"] = obs.gpp.notnull().astype(float)
    for name in cube:
        cube[name].attrs = {"units": units.get(name, "1")}
    table = hm.evaluate(run, cube, scales="daily")
    assert set(table.target) == {"gpp", "evapotranspiration"}
    direct = hm.evaluate(run, obs[["evapotranspiration"]], scales="daily")
    np.testing.assert_allclose(table[table.target == "evapotranspiration"].nse, direct.nse, rtol=1e-6)
    n = table[table.target == "gpp"].n.to_numpy()
    np.testing.assert_array_equal(n, obs.gpp.notnull().sum("time"))  # days of low quality are gaps


def spoil(run, **at):
    run = run.copy(deep=True)
    for name, (index, value) in at.items():
        run[name][index] = value
    return run


@pytest.mark.parametrize(
    ("change", "options", "culprit"),
    [
        (
            lambda r, o: (spoil(r, gpp=((3, slice(400, 500)), np.nan)), o),
            {},
            r"site XX-003: gpp .*2002-02-05 to 2002-05-15",
        ),
        (lambda r, o: (spoil(r, nee=((1, slice(0, 9)), np.inf)), o), {}, "site XX-001: nee"),
        (lambda r, o: (spoil(r, aboveground_biomass=(2, np.nan)), o), {}, "site XX-002: aboveground_biomass"),
        (
            lambda r, o: (r, o.assign(nee=o.nee * np.nan)),
            {"targets": ["gpp", "nee"]},
            "no site has an observation of nee",
        ),
        (lambda r, o: (r, o), {"targets": ["gross"]}, "unknown targets .*gross"),
        (lambda r, o: (r, o.drop_vars("reco")), {"targets": ["reco"]}, "reco"),
        (lambda r, o: (r, o), {"scales": ["daily", "weekly"]}, "weekly"),
        (lambda r, o: (r, o), {"sites": ["XX-001", "FR-Pue"]}, "FR-Pue"),
        (lambda r, o: (r, o.isel(site=[0, 1])), {}, "missing from the cube: XX-002"),
        (lambda r, o: (r.drop_vars("eco_respiration"), o), {}, "eco_respiration"),
        (lambda r, o: (r.isel(site=[0, 0, 1]), o), {}, "names a site twice: XX-000"),
        (
            lambda r, o: (r.assign_coords(time=r.time + np.timedelta64(10000, "D")), o),
            {"targets": "gpp"},
            "no day in common",
        ),
        (lambda r, o: (r.drop_vars("site"), o), {}, "site"),
    ],
)
def test_bad_input_names_the_culprit(pair, change, options, culprit):
    with pytest.raises(ValueError, match=culprit):
        hm.evaluate(*change(*pair), **options)


def test_partial_leaves_out_the_ends_with_a_warning_but_no_hole(pair):
    run, obs = pair
    short = run.where(run.time.dt.year < 2004)
    with pytest.raises(ValueError, match="partial=True"):
        hm.evaluate(short, obs, targets="gpp")
    with pytest.warns(UserWarning, match="6 sites lie outside"):
        table = hm.evaluate(short, obs, targets="gpp", scales="daily", partial=True)
    np.testing.assert_array_equal(table.n, obs.gpp.sel(time=slice(None, "2003")).notnull().sum("time"))
    hole = short.where((short.time.dt.year != 2002) | (short.site != "XX-004"))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="site XX-004"):
        hm.evaluate(hole, obs, targets="gpp", partial=True)
    gone = run.where(run.site != "XX-005")
    with pytest.raises(ValueError, match="site XX-005"):
        hm.evaluate(gone, obs, targets="gpp", partial=True)


# ---- over sites -------------------------------------------------------------------------------------------------


def test_summarise_quantiles_and_worst_decile():
    n = 101
    table = pd.DataFrame(
        {"site": [f"S{i}" for i in range(n)], "target": "gpp", "scale": "daily", "nse": np.linspace(0, 1, n)}
    )
    table = table.assign(rmse=table.nse, bias=np.linspace(-2, 1, n), kge=np.nan)
    table.loc[0, "nse"] = np.nan
    out = ho.summarise(table).set_index("metric")
    assert "kge" not in out.index
    assert out.loc["nse", "sites"] == 100 and out.loc["rmse", "sites"] == 101
    assert out.loc["nse", "worst_decile"] == pytest.approx(0.109) and out.loc["rmse", "worst_decile"] == pytest.approx(
        0.9
    )
    assert out.loc["rmse", ["q25", "median", "q75"]].tolist() == pytest.approx([0.25, 0.5, 0.75])
    assert out.loc["bias", "worst_decile"] == pytest.approx(np.quantile(abs(table.bias), 0.9))


def test_summarise_by_attribute(pair, scores):
    by = ho.summarise(scores, by=["igbp"], attributes=pair[1]).query(
        "target == 'gpp' and scale == 'daily' and metric == 'nse'"
    )
    assert dict(zip(by.igbp, by.sites)) == {"ENF": 2, "DBF": 2, "GRA": 1, "CRO": 1}
    with pytest.raises(ValueError, match="igbp"):
        ho.summarise(scores, by="igbp")
    with pytest.raises(ValueError, match="XX-003"):
        ho.summarise(scores, by="igbp", attributes=pair[1].drop_sel(site="XX-003"))


def test_parameter_agreement_is_in_shares_of_the_range():
    table = pd.DataFrame({"lower": [10.0], "upper": [30.0]}, index=["a.b"])
    x = xr.Dataset({"a.b": ("site", [12.0, 20.0, 28.0])}, {"site": ["A", "B", "C"]})
    out = ho.parameter_agreement(x, (x + 2).isel(site=[2, 0, 1]), table).iloc[0]
    assert out.correlation == pytest.approx(1) and out.bias == pytest.approx(0.1) and out.rmse == pytest.approx(0.1)
    assert out.at_bound == pytest.approx(1 / 3) and out.sites == 3
    with pytest.raises(ValueError, match="no parameter"):
        ho.parameter_agreement(x, x, table.rename({"a.b": "c.d"}))


def test_seasons_follow_the_observed_days(pair):
    run, obs = pair
    table = hm.seasons({"m": run}, obs, targets="gpp", sites=["XX-003"])
    x = obs.gpp.sel(site="XX-003")
    first = x.where((x.time.dt.month == 1) & (x.time.dt.day <= 5))
    row = table.query("series == 'observed' and day == 3").iloc[0]
    assert row["mean"] == pytest.approx(float(first.mean())) and row.q75 == pytest.approx(float(first.quantile(0.75)))
    row = table.query("series == 'm' and day == 3").iloc[0]
    assert row["mean"] == pytest.approx(float(run.gpp.sel(site="XX-003").where(first.notnull()).mean()))
    last = x.where((x.time.dt.month == 12) & (x.time.dt.day >= 27))  # also after a leap day
    assert table.query("series == 'observed' and day == 363")["mean"].iloc[0] == pytest.approx(float(last.mean()))


# ---- figures ----------------------------------------------------------------------------------------------------


def test_figures_leave_nothing_open(pair, scores):
    import matplotlib.pyplot as plt

    run, obs = pair
    before = plt.get_fignums()
    drawn = [
        figures.seasonal_cycles(hm.seasons(run, obs, targets="gpp")),
        figures.score_distributions(scores),
        figures.score_distributions(scores, metric="bias"),
        figures.score_map(scores, obs, "gpp"),
        figures.daily_series(run, obs, "nee", "XX-001", start="2002-01-01", end="2002-12-31"),
    ]
    assert all(isinstance(f, Figure) for f in drawn) and plt.get_fignums() == before
    assert drawn[3]._repr_png_().startswith(b"\x89PNG")
    labels = [t.get_text() for f in drawn for t in (f._supylabel, f.axes[0].yaxis.label) if t is not None]
    assert any("gC m$^{-2}$ d$^{-1}$" in text for text in labels)


def test_figures_refuse_what_they_cannot_show(pair, scores):
    run, obs = pair
    twice = pd.concat([scores, scores])
    for call, culprit in [
        (lambda: figures.score_distributions(scores, metric="r2"), "r2"),
        (lambda: figures.score_distributions(scores, scale="record"), "record"),
        (lambda: figures.score_distributions(twice), "XX-000 is scored twice"),
        (lambda: figures.score_map(scores, obs.drop_vars("latitude"), "gpp"), "latitude"),
        (lambda: figures.score_map(scores, obs.isel(site=[0]), "gpp"), "XX-001"),
        (lambda: figures.seasonal_cycles(hm.seasons(run, obs)), "say which target"),
        (lambda: figures.training_curves(pd.DataFrame({"epoch": [1], "loss": [1.0]})), "split, target"),
        (lambda: figures.daily_series(run, obs, "gpp", "FR-Pue"), "FR-Pue"),
    ]:
        with pytest.raises(ValueError, match=culprit):
            call()


def test_sites_below_the_axis_are_counted():
    table = pd.DataFrame({"site": list("ABCD"), "target": "gpp", "scale": "daily", "nse": [-50.0, -1.01, 0.2, 0.9]})
    (ax,) = figures.score_distributions(table).axes
    assert [t.get_text() for t in ax.texts] == ["2"]
    (ax,) = figures.score_distributions(table, floor=None).axes
    assert not ax.texts and ax.get_ylim()[0] < -50


# ---- report -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path, pair, scores):
    run, obs = pair
    split = dict(zip(obs.site.values, ["train", "train", "train", "valid", "test", "test"]))
    table = scores.assign(split=scores.site.map(split))
    both = pd.concat([table.assign(method="default", nse=table.nse - 1), table.assign(method="hybrid")])
    both.to_csv(tmp_path / "scores.csv", index=False)
    bounds = pd.DataFrame(
        {"lower": [0.0], "upper": [1.0], "default": [0.5], "unit": ["kPa-1"]}, index=["gpp_vpd.kappa"]
    )
    parameters = xr.Dataset({"gpp_vpd.kappa": ("site", [0.0, 0.3, 0.4, 0.5, 0.6, 0.7])}, obs.drop_vars("time").coords)
    parameters = parameters.assign_coords(split=("site", list(split.values())))
    hs.describe_parameters(parameters, bounds).to_netcdf(tmp_path / "parameters.nc")
    rows = [(e, s, "gpp", 1 / e) for e in (1, 2, 3) for s in ("train", "valid")]
    pd.DataFrame(rows, columns=["epoch", "split", "target", "loss"]).to_csv(tmp_path / "losses.csv", index=False)
    hm.seasons({"hybrid": run}, obs, targets="gpp").to_csv(tmp_path / "seasons.csv", index=False)
    config = {"seed": 7, "note": "<script>alert(1)</script>", "train": {"epochs": 3}, "targets": ["gpp", "nee", "reco", "transpiration", "fapar", "agb"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_score_table_is_of_held_out_sites(run_dir):
    table = hs.score_table(pd.read_csv(run_dir / "scores.csv"))
    values = pd.read_csv(run_dir / "scores.csv").query("split == 'test' and scale == 'daily' and target == 'gpp'")
    expected = values[values.method == "hybrid"].nse.median()
    assert table.loc["hybrid", "gpp"].startswith(f"{expected:.2f} (") and table.loc["sites", "gpp"] == "2"
    assert table.loc["default", "gpp"].startswith(f"{expected - 1:.2f} (")
    assert list(table.index) == ["default", "hybrid", "sites"] and "agb (nmae1r)" in table
    with pytest.raises(ValueError, match="r2"):
        hs.score_table(pd.read_csv(run_dir / "scores.csv"), metric="r2")


def test_report_is_one_page_of_its_own(run_dir):
    page = write_report(run_dir, title="A & B")
    text, markdown = page.read_text(), (run_dir / "report.md").read_text()
    assert page == run_dir / "report.html" and "<title>A &amp; B</title>" in text
    assert not re.search(r'(src|href)\s*=\s*"(?!data:image/png;base64,|#part)|@import|url\(', text)
    assert "<script" not in text and "&lt;script&gt;" in text
    pictures = {p.name for p in (run_dir / "report").iterdir()}
    assert pictures == {"score_distributions.png", "map.png", "seasons_gpp.png", "training_curves.png", "parameters_by_type_1.png"}
    assert text.count("data:image/png") == len(pictures)
    assert {f"report/{p}" for p in pictures} == set(re.findall(r"\]\((.+?)\)", markdown))
    assert re.findall(r"Figure (\d+)\.", re.sub(r'alt="[^"]*"', "", text)) == [str(i + 1) for i in range(len(pictures))]
    cell = hs.score_table(pd.read_csv(run_dir / "scores.csv")).loc["hybrid", "gpp"]
    assert cell in text and cell in markdown
    assert "train.epochs" in markdown and "17 %" in markdown  # one of six sites at a bound
    assert "Not trained on, and so a test of the equations alone: ET, NDVI." in markdown
    assert "true_parameters.nc" in markdown.splitlines()[-1]  # what was absent
    assert write_report(run_dir, title="A & B").read_text() == text


def test_report_of_a_part_says_what_is_left_out(run_dir):
    for name in ("scores.csv", "seasons.csv", "parameters.nc"):
        (run_dir / name).unlink()
    (run_dir / "figures").mkdir()
    figures.Picture(figsize=(1, 1)).savefig(run_dir / "figures" / "something_else.png")
    text = write_report(run_dir, run_dir / "pages" / "part.html").read_text()
    assert [p.name for p in (run_dir / "report").iterdir()] == ["training_curves.png"]
    assert text.count("<img") == 2 and "Something else." in text
    for line in ("scores (no scores.csv)", "mean seasonal cycles (no seasons.csv)", "parameters (no parameters.nc)"):
        assert line in text


@pytest.mark.parametrize(
    ("file", "content", "culprit"),
    [
        ("scores.csv", "", "scores.csv"),
        ("scores.csv", "site,target\nA,gpp\n", "scores.csv: it has no column scale"),
        ("scores.csv", "site,target,scale,nse\nA,gpp,daily,high\n", "scores.csv: nse is not a number but 'high'"),
        ("sites.csv", "site,igbp\nXX-000,ENF\n", "sites.csv: the attributes lack sites"),
        ("losses.csv", "epoch,split,loss\n1,train,2\n", "losses.csv: it has no column target"),
        ("distance.csv", "site,distance,nearest\nXX-000,far,XX-001\n", "distance.csv: distance is not a number but 'far'"),
        ("parameters.nc", "CDF", "parameters.nc"),
        ("config.json", "{", "config.json"),
    ],
)
def test_report_names_a_broken_file(run_dir, file, content, culprit):
    (run_dir / file).write_text(content)
    with pytest.raises(ValueError, match=re.escape(culprit)):
        write_report(run_dir)
    assert not (run_dir / "report.html").exists()


def test_bounds_survive_the_file(run_dir):
    table = hs.parameter_table(hs.read_run(run_dir).parameters)
    assert table.loc["gpp_vpd.kappa"].tolist() == [0.0, 1.0, 0.5, "kPa-1"]


@pytest.mark.parametrize("dims", [("w_dim_0", "w_dim_1"), ("w_dim_0", "site")])  # of a training; of a cross-validation, where folds differ
def test_report_leaves_the_weights_of_a_network_out_and_says_so(run_dir, dims):
    with xr.open_dataset(run_dir / "parameters.nc") as file:
        parameters = file.load()
    size = {"w_dim_0": 8, "w_dim_1": 4, **parameters.sizes}
    parameters["gpp_vpd.weights"] = dims, np.ones([size[d] for d in dims]), {"lower": -5.0, "upper": 5.0, "units": "1"}
    parameters.to_netcdf(run_dir / "parameters.nc")
    for other in ("true_parameters.nc", "parameters_calibrated.nc"):
        parameters.drop_attrs(deep=False).to_netcdf(run_dir / other)
    text = write_report(run_dir).read_text()
    assert "are not shown: gpp_vpd.weights." in text and "gpp_vpd.kappa" in text
    table = pd.DataFrame({"lower": 0.0, "upper": 1.0}, index=list(parameters))
    assert list(ho.parameter_agreement(parameters, parameters, table).index) == ["gpp_vpd.kappa"]
    with pytest.raises(ValueError, match="gpp_vpd.weights"):
        figures.parameter_scatter(parameters, parameters, table.assign(default=0.5, unit="1"), names=["gpp_vpd.weights"])


def test_report_needs_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="neither scores.csv nor losses.csv"):
        write_report(tmp_path / "empty")


# ---- real cube --------------------------------------------------------------------------------------------------


def test_real_cube_against_itself():
    from hybridecosys.data.cube import open_cube, real_data_path
    from hybridecosys.data.observations import observations

    path = real_data_path("fluxnet/fluxnet2015_daily.nc")
    if path is None:
        pytest.skip("the real cube is absent: set HYBRIDECOSYS_DATA")
    obs = observations(open_cube(path).isel(site=slice(None, None, 6)))
    series = [t for t in obs if "time" in obs[t].dims]
    run = xr.Dataset({TARGETS.output[t]: obs[t].fillna(0.0) for t in series})
    table = hm.evaluate(run, obs, targets=series)
    assert set(table.target) == set(series) and {"gpp", "nee", "reco", "evapotranspiration", "fapar"} <= set(series)
    scored = table.nse.dropna()
    assert len(scored) > 100
    np.testing.assert_allclose(scored, 1)
