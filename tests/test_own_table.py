"""A table of one's own as a cube: round trips over units, dates and kinds of file, and slips that are answered by name."""

import numpy as np
import pandas as pd
import pytest

import hybridecosys as he

SITE = {"site": "XX-Abc", "attributes": {"latitude": 36.43, "igbp": "GRA"}}
UNITS = {
    "of the cube": ({"TA_F": "degC", "SW_IN_F": "W m-2", "VPD_F": "hPa", "P_F": "mm d-1"}, lambda t: t),
    "others": (
        {"TA_F": "K", "SW_IN_F": "MJ m-2 d-1", "VPD_F": "kPa", "P_F": "kg m-2 s-1"},
        lambda t: t.assign(TA_F=t.TA_F + 273.15, SW_IN_F=t.SW_IN_F * 0.0864, VPD_F=t.VPD_F / 10, P_F=t.P_F / 86400),
    ),
}


@pytest.fixture(scope="module")
def sample():
    cube = he.read_fluxnet(he.sample_path()).isel(site=0)
    return pd.DataFrame({n: cube[n].values for n in ("TA_F", "SW_IN_F", "VPD_F", "P_F")}, index=cube.get_index("time"))


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("kind", ["frame", "file"])
@pytest.mark.parametrize("dates", ["dates", "%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y-%m-%dT00:00:00+01:00"])
def test_a_table_makes_the_same_cube(sample, tmp_path, units, kind, dates):
    named, convert = UNITS[units]
    table = convert(sample).rename(columns=str.lower)
    if dates != "dates":
        table.index = pd.Index(table.index.strftime(dates))
    table = table.rename_axis("day")
    if kind == "file":
        table.to_csv(tmp_path / "mine.csv")
    cube = he.cube_from_table(tmp_path / "mine.csv" if kind == "file" else table, {n: (n.lower(), unit) for n, unit in named.items()}, **SITE)
    for name in named:
        assert np.allclose(cube[name].isel(site=0), sample[name], atol=1e-4, equal_nan=True), name
    assert cube.TA_F.attrs["units"] == "degC" and cube.get_index("time").equals(sample.index.rename("time"))


@pytest.mark.parametrize("separator, decimal, coding", [(";", ",", "utf-8-sig"), (";", ",", "latin-1"), ("\t", ".", "utf-16"), (",", ".", "utf-8")])
@pytest.mark.parametrize("packed", ["", ".gz", ".zip"])
def test_what_a_spreadsheet_writes(sample, tmp_path, separator, decimal, coding, packed):
    table = sample.rename(columns={"TA_F": "Tair (\xb0C)"}).set_index(pd.Index(sample.index.strftime("%d.%m.%Y"), name="Tag"))
    path = tmp_path / f"mine.csv{packed}"
    table.to_csv(path, sep=separator, decimal=decimal, encoding=coding)
    columns = {n: ("Tair (\xb0C)" if n == "TA_F" else n, unit) for n, unit in UNITS["of the cube"][0].items()}
    cube = he.cube_from_table(path, columns, **SITE)
    assert all(np.allclose(cube[n].isel(site=0), sample[n], equal_nan=True) for n in columns)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "mine.csv: the file is empty"),
        ("day,T\n", "mine.csv: a header without any row"),
        ("day,T,T\n2010-01-01,1,2\n", "mine.csv: column T stands twice"),
        ("day,T\n2010-01-01,1\n2010-01-02\n", "mine.csv: .* line 3 has 1 values"),
        ("day,T\n2010-01-01,1,5\n2010-01-02,2,5\n", "mine.csv: .* line 2 has 3 values"),
        ("day;T\n01.02.2010;1,5\n02.02.2010;2,5\n", "mine.csv: column 'day': '01.02.2010' and all others could be month or day first"),
        ("day;T\n2010-01-01;1.234,5\n", "column 'T': '1.234.5' on 2010-01-01 is no number"),
        ("day,T\n40179,1\n40180,1\n", "no dates in column 'day': .*40179"),
        ("day,T\n2010-01-01 00:30,1\n2010-01-01 01:00,1\n", "mine.csv: cube: the time axis is not daily, it has 2010-01-01 00:30"),
    ],
)
def test_files_that_are_no_table_are_refused(tmp_path, text, words):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        he.cube_from_table(tmp_path / "mine.csv", {n: ("T", unit) for n, unit in UNITS["of the cube"][0].items()}, **SITE)


def test_marks_of_missing_values_are_said(sample):
    table = sample.assign(gpp=np.where(np.arange(len(sample)) % 7 == 0, -6999.0, 2.0))
    columns = {n: (n, unit) for n, unit in UNITS["of the cube"][0].items()} | {"GPP_NT_VUT_REF": ("gpp", "gC m-2 d-1")}
    cube = he.cube_from_table(table, columns, missing=[-6999], **SITE)
    assert int(cube.GPP_NT_VUT_REF.isnull().sum()) == -(-len(sample) // 7)
    with pytest.raises(ValueError, match="GPP_NT_VUT_REF: -6999 .* at site XX-Abc"):
        he.cube_from_table(table, columns, **SITE)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t, c: (t, c | {"TA": ("TA_F", "K")}), "unknown variable 'TA'"),
        (lambda t, c: (t, c | {"TA_F": ("ta_f", "degC")}), "no column 'ta_f'; did you mean 'TA_F'"),
        (lambda t, c: (t, c | {"TA_F": "TA_F"}), "wants a column and its unit"),
        (lambda t, c: (t, c | {"TA_F": ("TA_F", "mm d-1")}), "TA_F"),
        (lambda t, c: (t, c | {"TA_F": ("TA_F", "K")}), "TA_F.*XX-Abc"),
        (lambda t, c: (t.reset_index(drop=True), c), "date=... names the column"),
        (lambda t, c: (t.assign(TA_F="warm"), c), "'warm' on .* is no number"),
        (lambda t, c: (t.set_axis(["yesterday"] * len(t)), c), "no dates in the index"),
        (lambda t, c: (pd.concat([t, t.iloc[:1]]), c), "time|date"),
        (lambda t, c: (t.set_axis(t.index.strftime("%Y%m%d").astype(float) + 0.5), c), "no dates in the index"),
        (lambda t, c: (pd.concat([t, t.TA_F], axis=1), c), "the column 'TA_F' twice"),
        (lambda t, c: (t.iloc[::-1], c), "unsorted dates, 2011-12-30 comes after 2011-12-31"),
        (lambda t, c: (t.drop(t.index[40:45]), c), "a hole of 5 days in the dates, first at 2010-02-10"),
        (lambda t, c: (t, {"TA_F": c["TA_F"]}), "missing variable SW_IN_F"),
    ],
)
def test_slips_are_answered_by_name(sample, change, words):
    table, columns = change(sample, {n: (n, unit) for n, unit in UNITS["of the cube"][0].items()})
    with pytest.raises(ValueError, match=words):
        he.cube_from_table(table, columns, **SITE)
