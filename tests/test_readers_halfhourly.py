"""Half-hourly and hourly FLUXNET files: days made of them, files that must be refused, transpiration by uWUE."""

import gzip
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridecosys.data.build import build_cube
from hybridecosys.data.fluxnet import read_fluxnet
from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.data.halfhourly import (
    interval_starts,
    made_up_halfhours,
    read_halfhourly,
    steps_dataset,
    to_days,
    uwue_transpiration,
)
from hybridecosys.data.observations import observations
from hybridecosys.data.units import latent_heat_to_et

NAME = "FLX_DE-Xxx_FLUXNET2015_FULLSET_HH_2005-2005_1-3.csv"


@pytest.fixture(scope="module")
def table():
    return made_up_halfhours(days=40)


def write(folder, table, name=NAME):
    path = folder / name
    table.to_csv(path, index=False)
    return path


def test_days_are_those_of_the_daily_product(tmp_path, table):
    """Every variable against pandas' own grouping by the day in which an interval starts."""
    days = read_halfhourly(write(tmp_path, table), latitude=50.0, igbp="DBF")
    groups = table.groupby(pd.to_datetime(table.TIMESTAMP_START, format="%Y%m%d%H%M").dt.normalize())
    assert days.site.item() == "DE-Xxx" and (days.get_index("time") == groups.TA_F.mean().index).all()
    for name in ("TA_F", "SW_IN_F", "SW_IN_POT", "VPD_F", "NETRAD", "PA_F", "CO2_F_MDS", "LE_F_MDS"):
        np.testing.assert_allclose(days[name][0], groups[name].mean(), err_msg=name)
    for name in ("GPP_NT_VUT_REF", "GPP_DT_VUT_REF", "NEE_VUT_REF", "RECO_NT_VUT_REF"):
        np.testing.assert_allclose(days[name][0], groups[name].sum() * 1800 * 12.011e-6, rtol=1e-6, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(days.P_F[0], groups.P_F.sum(), atol=1e-12)
    np.testing.assert_array_equal(days.TA_F_MAX[0], groups.TA_F.max())
    np.testing.assert_array_equal(days.TA_F_MIN[0], groups.TA_F.min())
    lit = table[table.SW_IN_F > 10].groupby(table.TIMESTAMP_START.str[:8])
    np.testing.assert_allclose(days.TA_F_DAY[0], lit.TA_F.mean())
    np.testing.assert_allclose(days.VPD_F_DAY[0], lit.VPD_F.mean())
    for name in ("NEE_VUT_REF_QC", "LE_F_MDS_QC"):
        np.testing.assert_allclose(days[name][0], groups[name].agg(lambda c: (c <= 1).mean()))


def test_hours_equal_the_half_hours_they_are_made_of(tmp_path, table):
    halves = table.drop(columns=["TIMESTAMP_START", "TIMESTAMP_END"])
    hours = halves.groupby(np.arange(len(table)) // 2).mean()
    hours["P_F"] *= 2  # a sum
    hours.insert(0, "TIMESTAMP_END", table.TIMESTAMP_END[1::2].to_numpy())
    hours.insert(0, "TIMESTAMP_START", table.TIMESTAMP_START[::2].to_numpy())
    a = read_halfhourly(write(tmp_path, table))
    b = read_halfhourly(write(tmp_path, hours, NAME.replace("_HH_", "_HR_")))
    for name in ("TA_F", "P_F", "NEE_VUT_REF", "LE_F_MDS", "SW_IN_F"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6, atol=1e-9, err_msg=name)
    assert "1:00:00" in b.attrs["aggregation"]


def test_half_hour_before_midnight_belongs_to_the_old_day(tmp_path, table):
    """Rain in the interval that ends at 0:00 falls on the day before, with either column of times alone."""
    table = table.assign(P_F=0.0)
    table.loc[table.TIMESTAMP_END == "200506110000", "P_F"] = 3.0
    for drop in ([], ["TIMESTAMP_START"], ["TIMESTAMP_END"]):
        days = read_halfhourly(write(tmp_path, table.drop(columns=drop)))
        assert float(days.P_F.sel(time="2005-06-10").item()) == pytest.approx(3.0) and float(days.P_F.sum()) == pytest.approx(3.0)


def test_rows_left_out_and_broken_days_are_missing_not_zero(tmp_path, table):
    short = table.drop(index=[500, 501]).iloc[5:-7]
    days = read_halfhourly(write(tmp_path, short))
    bad = np.flatnonzero(days.P_F.isnull()[0])
    assert list(bad) == [0, 10, 39] and days.sizes["time"] == 40
    assert days.NEE_VUT_REF_QC[0, 10] < 1 and "P_F 3 d" in days.attrs["aggregation"]
    assert list(np.flatnonzero(read_halfhourly(write(tmp_path, short), least=0.9).P_F.isnull()[0])) == [0, 39]


def test_fill_value_and_missing_codes(tmp_path, table):
    table = table.copy()
    table.loc[48:95, "NEE_VUT_REF_QC"] = -9999
    table["NETRAD"] = -9999.0
    days = read_halfhourly(write(tmp_path, table))
    assert days.NEE_VUT_REF_QC[0, 1] == 0 and "NETRAD" not in days and not (days.to_array() == -9999).any()


def test_polar_night_has_no_daytime_mean_and_forcing_still_has_one(tmp_path, table):
    dark = table.assign(SW_IN_F=0.0, SW_IN_POT=0.0, NIGHT=1)
    days = read_halfhourly(write(tmp_path, dark), latitude=78.0, igbp="GRA", elevation=10.0)
    assert days.TA_F_DAY.isnull().all() and days.TA_F.notnull().all()
    with pytest.warns(UserWarning):
        forcing = prepare_forcing(days)
    np.testing.assert_allclose(forcing.t_air_day, forcing.t_air)


def test_zip_csv_gz_and_site_information(tmp_path, table):
    text = table.to_csv(index=False)
    archive, info = tmp_path / "AMF_US-Xx1_FLUXNET_FULLSET_2005-2005_3-5.zip", tmp_path / "BIF.csv"
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("AMF_US-Xx1_FLUXNET_ERA5_HH_1981-2021_3-5.csv", "TIMESTAMP_START,TIMESTAMP_END,TA_ERA\n")
        z.writestr("AMF_US-Xx1_FLUXNET_FULLSET_HH_2005-2005_3-5.csv", text)
    info.write_text("SITE_ID,VARIABLE,DATAVALUE\nUS-Xx1,LOCATION_LAT,36.4\nUS-Xx1,IGBP,GRA\n")
    packed = tmp_path / "ICOSETC_DE-Xxx_FLUXNET_HH_L2.csv.gz"
    table.to_csv(packed, index=False)
    a, b = read_halfhourly(archive, bif=info), read_halfhourly(packed)
    assert a.site.item() == "US-Xx1" and a.igbp.item() == "GRA" and a.latitude.item() == 36.4 and b.site.item() == "DE-Xxx"
    np.testing.assert_array_equal(a.TA_F, b.TA_F)


def test_goes_through_forcing_and_targets(tmp_path, table):
    days = read_halfhourly(write(tmp_path, table), transpiration=True, latitude=50.0, elevation=100.0, igbp="DBF", sand=0.4, clay=0.2)
    forcing, seen = prepare_forcing(days), observations(days)
    np.testing.assert_allclose(forcing.t_air_day, days.TA_F_DAY)
    np.testing.assert_allclose(forcing.vpd_day, days.VPD_F_DAY / 10)
    assert {"gpp", "nee", "evapotranspiration", "transpiration"} <= set(seen.data_vars)
    assert "estimate" in seen.transpiration.attrs["long_name"] or "estimate" in days["T"].attrs["long_name"]


START, END = "TIMESTAMP_START", "TIMESTAMP_END"
BAD = {
    "not gap-filled": (lambda t: t.rename(columns={"TA_F": "TA", "P_F": "P"}), "missing column TA_F, P_F; not a gap-filled FLUXNET"),
    "no times": (lambda t: t.drop(columns=[START, END]), "neither TIMESTAMP_START nor TIMESTAMP_END"),
    "daily times": (lambda t: t.assign(**{START: t[START].str[:8]}), "TIMESTAMP_START '20050601' is not a time"),
    "one step longer": (lambda t: t.assign(**{END: t[END].mask(t.index == 3, "200506010230")}), "0 days 01:00:00 long"),
    "twice": (lambda t: pd.concat([t, t.iloc[-1:]]), "is not after the one before it"),
    "off the half-hour": (lambda t: t.assign(**{c: t[c].str[:-1] + "7" for c in (START, END)}), "does not begin at a multiple"),
    "weekly": (lambda t: t.iloc[::336].assign(**{END: t[START].shift(-336).iloc[::336]}).iloc[:-1].dropna(), "half-hours or hours are needed|no time step"),
    "too hot": (lambda t: t.assign(TA_F=t.TA_F + 90), "TA_F: .* degC is above 65 at site DE-Xxx on 2005-06-01"),
    "text": (lambda t: t.assign(TA_F="warm"), "column TA_F, line 2: 'warm' is not a number"),
    "an undeclared mark": (lambda t: t.assign(TA_F=t.TA_F.mask(t.index == 50, -999.0)), "TA_F: -999 degC is below -90 at site DE-Xxx on 2005-06-02 01:00 .*a mark of missing values"),
    "a mark in a flux": (lambda t: t.assign(NEE_VUT_REF=t.NEE_VUT_REF.mask(t.index == 50, 9999.0)), "NEE_VUT_REF: .* gC m-2 d-1 is above 500 at site DE-Xxx on 2005-06-02 01:00"),
    "empty": (lambda t: t.iloc[:0], "a header without any row"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_by_name(tmp_path, table, case):
    change, message = BAD[case]
    with pytest.raises(ValueError, match=message) as error:
        read_halfhourly(write(tmp_path, change(table)))
    assert NAME in str(error.value)


SAME = {
    "gzip under another name": lambda t: gzip.compress(t.encode()),
    "UTF-16": lambda t: t.encode("utf-16"),
    "Latin-1, with a column of text": lambda t: "\n".join(x + (",NOTE" if not i else ",Météo") for i, x in enumerate(t.splitlines())).encode("latin-1"),
    "carriage returns": lambda t: t.replace("\n", "\r").encode(),
    "byte-order mark": lambda t: t.encode("utf-8-sig"),
    "ISO times": lambda t: re.sub(r"(?m)^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d),(\d{4})(\d\d)(\d\d)(\d\d)(\d\d),", r"\1-\2-\3 \4:\5,\6-\7-\8T\9:\g<10>:00,", t).encode(),
    "times as floats": lambda t: re.sub(r"(?m)^(\d{12}),(\d{12}),", r"\1.0,\2.0,", t).encode(),
    "semicolons, decimal commas": lambda t: t.replace(",", ";").replace(".", ",").encode(),
    "tabs, lower case": lambda t: (t.split("\n", 1)[0].lower() + "\n" + t.split("\n", 1)[1]).replace(",", "\t").encode(),
    "blank lines at the end": lambda t: (t + "\n\n").encode(),
}


@pytest.mark.parametrize("form", SAME)
def test_the_same_table_in_another_dress(tmp_path, table, form):
    (tmp_path / NAME).write_bytes(SAME[form](table.to_csv(index=False)))
    xr.testing.assert_equal(read_halfhourly(tmp_path / NAME), read_halfhourly(write(tmp_path, table, NAME.replace("FULLSET", "PLAIN"))))


BROKEN = {
    "cut inside the last row": (lambda t: t[:-60], "line 1921 has .* values, the header 20 columns; the file is cut short"),
    "one value too many": (lambda t: t.replace(t.splitlines()[7], t.splitlines()[7] + ",1"), "line 8 has 21 values"),
    "a column twice": (lambda t: "\n".join(x + (",TA_F" if not i else ",99") for i, x in enumerate(t.splitlines())), "column TA_F stands twice"),
    "an Excel workbook": (None, "an Excel workbook; save the table as CSV"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_structure_of_the_table_is_checked(tmp_path, table, case):
    """By both doors: nothing of a broken line is taken."""
    change, message = BROKEN[case]
    path = write(tmp_path, table)
    if change is None:
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("[Content_Types].xml", "")
    else:
        path.write_text(change(path.read_text()))
    for reader in (read_halfhourly, read_fluxnet):
        with pytest.raises(ValueError, match=f"{path.name}.*{message}"):
            reader(path)


def test_a_mark_is_missing_if_asked(tmp_path, table):
    marked = write(tmp_path, table.assign(TA_F=table.TA_F.mask(table.index == 50, -999.0)))
    with pytest.warns(UserWarning, match="intervals of TA_F outside -90 to 65 degC: 1 set missing .first -999 at site DE-Xxx on 2005-06-02 01:00"):
        days = read_halfhourly(marked, out_of_range="missing", least=0.9)
    assert abs(float(days.TA_F[0, 1]) - table.TA_F[48:96].drop(50).mean()) < 1e-9 and "intervals of TA_F" in days.attrs["out_of_range"]


def test_a_code_that_is_none_is_not_good(tmp_path, table):
    days = read_halfhourly(write(tmp_path, table.assign(NEE_VUT_REF_QC=-999, LE_F_MDS_QC=0)))
    assert (days.NEE_VUT_REF_QC == 0).all() and (days.LE_F_MDS_QC == 1).all()


def test_fluxes_by_the_constant_threshold_stand_in(tmp_path, table):
    with pytest.warns(UserWarning, match="no GPP_NT_VUT_REF.*GPP_NT_CUT_REF.*stand in"):
        days = read_halfhourly(write(tmp_path, table.rename(columns=lambda c: c.replace("_VUT_", "_CUT_"))))
    xr.testing.assert_equal(days, read_halfhourly(write(tmp_path, table)))


BIF = "SITE_ID,GROUP_ID,VARIABLE_GROUP,VARIABLE,DATAVALUE\n{0},1,GRP_IGBP,IGBP,DBF\n{0},2,GRP_LOCATION,LOCATION_LAT,51.1\n"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "folder"])
@pytest.mark.parametrize("info", ["ICOSETC_DE-Xxx_SITEINFO_INTERIM.csv", "FLX_AA-Flx_BIF_ALL_20200501.csv"])
def test_site_information_in_the_zip_or_beside_the_file_is_read(tmp_path, table, zipped, info):
    """As ICOS (interim: half-hours alone) and FLUXNET deliver it, packed or unpacked."""
    files = {"ICOSETC_DE-Xxx_FLUXNET_HH_INTERIM.csv": table.to_csv(index=False), info: BIF.format("DE-Xxx"), "ICOSETC_DE-Xxx_METEO_INTERIM.csv": "TIMESTAMP_START,TIMESTAMP_END,TA\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    if zipped:
        with zipfile.ZipFile(tmp_path / "ICOSETC_DE-Xxx_ARCHIVE_INTERIM.zip", "w") as z:
            for name in files:
                z.write(tmp_path / name, f"DE-Xxx/{name}")
                (tmp_path / name).unlink()
    for site in (read_fluxnet(tmp_path), build_cube(tmp_path, progress=False)):
        assert (site.site.item(), site.latitude.item(), site.igbp.item()) == ("DE-Xxx", 51.1, "DBF")
    assert read_fluxnet(next(tmp_path.glob("*.zip" if zipped else "*_HH_*")), latitude=50.0).latitude.item() == 50.0


def test_of_two_sites_in_one_zip_nobody_guesses(tmp_path, table):
    path = tmp_path / "download.zip"
    with zipfile.ZipFile(path, "w") as z:
        for site, warmer in (("DE-Xxx", 0.0), ("DE-Yyy", 5.0)):
            z.writestr(f"ERA/{NAME.replace('DE-Xxx', site)}", table.assign(TA_F=table.TA_F + warmer).to_csv(index=False))
    with pytest.raises(ValueError, match="download.zip: several half-hourly files in this zip: .*DE-Xxx.*DE-Yyy.*say which, site="):
        read_fluxnet(path)
    assert float(read_fluxnet(path, site="DE-Yyy").TA_F[0, 0]) == pytest.approx(table.TA_F[:48].mean() + 5)


def test_a_folder_of_two_sites(tmp_path, table):
    for site in ("DE-Xxx", "DE-Yyy"):
        write(tmp_path, table, NAME.replace("DE-Xxx", site))
    assert read_fluxnet(tmp_path, progress=False, latitude={"DE-Yyy": 50.0}).site.values.tolist() == ["DE-Xxx", "DE-Yyy"]
    assert read_fluxnet(tmp_path, site="DE-Yyy").site.item() == "DE-Yyy"
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no data in this folder"):
        read_fluxnet(tmp_path / "nothing")


def test_options_are_checked(tmp_path, table):
    path = write(tmp_path, table)
    with pytest.raises(ValueError, match='daytime=\'noon\'; one of "radiation", "potential"'):
        read_halfhourly(path, daytime="noon")
    with pytest.raises(ValueError, match="least=0 is outside"):
        read_halfhourly(path, least=0)
    with pytest.raises(FileNotFoundError, match="no FLUXNET file at"):
        read_halfhourly(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="did you mean 'latitude'"):
        read_halfhourly(path, lattitude=3)


@pytest.mark.parametrize("share", [0.9, 0.5])
def test_uwue_finds_the_share_of_transpiration(share):
    """Where one day in five has no evaporation (T = ET) and the others a known share, the days have that share."""
    table = made_up_halfhours(days=60, seed=3).assign(P_F=0.0, NEE_VUT_REF_QC=0, LE_F_MDS_QC=0)
    whole = 2.1 * table.GPP_NT_VUT_REF * np.sqrt(table.VPD_F)
    pure = (np.arange(len(table)) // 48) % 5 == 0
    table["LE_F_MDS"] = whole / np.where(pure, 1.0, share)
    steps = steps_dataset(table, "XX-Aaa")
    t, days = uwue_transpiration(steps), to_days(steps)
    np.testing.assert_allclose((t / latent_heat_to_et(days.LE_F_MDS))[0, 1], share, rtol=1e-3)
    np.testing.assert_allclose((t / latent_heat_to_et(days.LE_F_MDS))[0, 10], 1.0, rtol=1e-3)


def test_uwue_without_a_dry_day_is_refused():
    table = made_up_halfhours(days=10).assign(P_F=1.0)
    with pytest.raises(ValueError, match="site XX-Aaa has no good half-hour on a dry day"):
        uwue_transpiration(steps_dataset(table, "XX-Aaa"))


def test_table_is_not_changed(table):
    before = table.copy()
    interval_starts(table)
    to_days(steps_dataset(table, "XX-Aaa"))
    pd.testing.assert_frame_equal(table, before)
