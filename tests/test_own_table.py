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
@pytest.mark.parametrize("dates", ["dates", "%Y-%m-%d", "%Y%m%d"])
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
        (lambda t, c: (t, {"TA_F": c["TA_F"]}), "missing variable SW_IN_F"),
    ],
)
def test_slips_are_answered_by_name(sample, change, words):
    table, columns = change(sample, {n: (n, unit) for n, unit in UNITS["of the cube"][0].items()})
    with pytest.raises(ValueError, match=words):
        he.cube_from_table(table, columns, **SITE)
