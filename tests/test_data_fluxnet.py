"""FLUXNET files: what is read, and files that must be refused."""

import gzip
import io
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridecosys.data.cube import real_data_path
from hybridecosys.data.fluxnet import SAMPLE_ATTRIBUTES, read_fluxnet, read_site_info, sample_path, sample_site
from hybridecosys.data.forcing import prepare_forcing
from hybridecosys.learning.hybrid import HybridModel
from hybridecosys.model.structure import wroasted
from hybridecosys.model.twin import synthetic_cube

NAME = "FLX_US-AR1_FLUXNET2015_SUBSET_DD_2010-2011_1-3.csv"


def write(folder, text, name=NAME):
    path = folder / name
    path.write_text(text)
    return path


def test_sample_equals_its_file():
    site, raw = sample_site(), pd.read_csv(sample_path())
    assert site.site.item() == "US-AR1" and str(site.time.values[-1])[:10] == "2011-12-31"
    for name in ("TA_F", "P_F", "NEE_VUT_REF", "LE_F_MDS_QC"):
        np.testing.assert_array_equal(site[name].values[0], raw[name].replace(-9999, np.nan).values)
    assert int(site.NETRAD.isnull().sum()) == int((raw.NETRAD == -9999).sum()) == 1
    assert sample_path().stat().st_size < 150_000


BAD = {
    "empty": ("", "the file is empty"),
    "only a header": ("TIMESTAMP,TA_F,SW_IN_F,VPD_F,P_F\n", "a header without any row"),
    "another product": (
        "site,date,gpp\nDE-Hai,2001-01-01,3\n",
        "no column TIMESTAMP, not a FLUXNET file; it has site, date, gpp",
    ),
    "half-hourly": (
        "TIMESTAMP_START,TIMESTAMP_END,TA_F\n200101010000,200101010030,3\n",
        "missing column SW_IN_F, VPD_F, P_F; not a gap-filled FLUXNET file of half-hours",
    ),
    "monthly": ("TIMESTAMP,TA_F,SW_IN_F,VPD_F,P_F\n200101,1,1,1,1\n", "TIMESTAMP '200101' is not a day"),
    "not a date": ("TIMESTAMP,TA_F,SW_IN_F,VPD_F,P_F\n20011301,1,1,1,1\n", "TIMESTAMP '20011301' is not a day"),
    "missing column": ("TIMESTAMP,TA_F,SW_IN_F,VPD_F\n20010101,1,1,1\n", "missing column P_F"),
    "duplicate": (
        "TIMESTAMP,TA_F,SW_IN_F,VPD_F,P_F\n20010101,1,1,1,1\n20010101,1,1,1,1\n",
        "duplicate dates.*2001-01-01",
    ),
    "hole": ("TIMESTAMP,TA_F,SW_IN_F,VPD_F,P_F\n20010101,1,1,1,1\n20010105,1,1,1,1\n", "2001-01-02 to 2001-01-04"),
    "negative rain": (
        "TIMESTAMP,TA_F,SW_IN_F,VPD_F,P_F\n20010101,1,1,1,-2\n",
        "P_F: -2 mm d-1 is below 0 at site US-AR1",
    ),
    "negative VPD": (
        "TIMESTAMP,TA_F,SW_IN_F,VPD_F,P_F\n20010101,1,1,-3,2\n",
        "VPD_F: -3 hPa is below 0 at site US-AR1",
    ),
    "ragged": ("TIMESTAMP,TA_F\n20010101,1\n20010102,1,2,3\n", "not a CSV table"),
    "text": ("TIMESTAMP,TA_F,SW_IN_F,VPD_F,P_F\n20010101,warm,1,1,1\n", "warm"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_csv_is_refused_and_named(case, tmp_path):
    text, message = BAD[case]
    with pytest.raises(ValueError, match=f"US-AR1.*{message}"):
        read_fluxnet(write(tmp_path, text))


def test_file_names(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.csv"):
        read_fluxnet(tmp_path / "gone.csv")
    for step, word in (("HH", "half-hourly"), ("HR", "hourly"), ("WW", "weekly"), ("MM", "monthly"), ("YY", "yearly")):
        with pytest.raises(ValueError, match=f"a {word} FLUXNET file"):
            read_fluxnet(write(tmp_path, "x", NAME.replace("_DD_", f"_{step}_")))
    good = "TIMESTAMP,TA_F,SW_IN_F,VPD_F,P_F\n20010101,1,1,1,1\n"
    with pytest.raises(ValueError, match="tower.csv: the file name does not tell the site"):
        read_fluxnet(write(tmp_path, good, "tower.csv"))
    assert read_fluxnet(tmp_path / "tower.csv", site="XX-Tow").site.item() == "XX-Tow"


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="US-AR1.*not a text file"):
        read_fluxnet(path)


def test_zip(tmp_path):
    path = tmp_path / "FLX_US-AR1_FLUXNET2015_SUBSET_2010-2011_1-3.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(sample_path(), NAME)
    assert read_fluxnet(path).equals(read_fluxnet(sample_path()))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a zip file, or truncated"):
        read_fluxnet(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(NAME.replace("_DD_", "_MM_"), "x")
    with pytest.raises(ValueError, match="no daily CSV"):
        read_fluxnet(path)


def fullset() -> pd.DataFrame:
    """The sample with columns that only a FULLSET file has, some of them unknown here."""
    table = pd.read_csv(sample_path())
    day = table.TA_F + 2.0
    day.iloc[[3, 400]] = -9999
    more = {"TA_F_DAY": day, "TA_F_NIGHT": table.TA_F - 2, "TA_F_MDS": table.TA_F, "CO2_F_MDS": 391.5, "NEE_VUT_05": -9999, "RECO_DT_VUT_REF": 1.0}
    return table.assign(**more)


def test_fullset_as_file_and_in_a_zip_beside_the_subset(tmp_path):
    name = NAME.replace("SUBSET", "FULLSET")
    fullset().to_csv(tmp_path / name, index=False)
    site = read_fluxnet(tmp_path / name, **SAMPLE_ATTRIBUTES, sand=0.62, clay=0.11)
    assert {"TA_F_DAY", "CO2_F_MDS", "GPP_DT_VUT_REF"} <= set(site.data_vars) and "TA_F_MDS" not in site
    assert site.TA_F_DAY.isnull().sum() == 2 and site.CO2_F_MDS.attrs["units"] == "ppm"
    forcing = prepare_forcing(site, co2="cube")
    assert (forcing.co2 == 391.5).all() and forcing.co2.attrs["source"] == "CO2_F_MDS of the cube"
    assert forcing.derived_days.sel(derived="t_air_day").item() == 2
    with zipfile.ZipFile(tmp_path / "FLX_US-AR1_FLUXNET2015_2010-2011_1-3.zip", "w") as archive:
        archive.write(sample_path(), NAME)
        archive.write(tmp_path / name, name)
    assert "TA_F_DAY" in read_fluxnet(tmp_path / "FLX_US-AR1_FLUXNET2015_2010-2011_1-3.zip")


def test_misspelled_attribute_is_refused_and_others_are_kept():
    with pytest.raises(ValueError, match="'elevaton' unknown; did you mean 'elevation'"):
        read_fluxnet(sample_path(), elevaton=611.0)
    assert read_fluxnet(sample_path(), n_deposition=0.8).n_deposition.item() == 0.8


def test_attributes_are_checked_like_a_cube(tmp_path):
    with pytest.raises(ValueError, match="latitude: 95 degrees_north is above 90"):
        read_fluxnet(sample_path(), latitude=95.0)
    with pytest.raises(ValueError, match="igbp 'PRAIRIE'"):
        prepare_forcing(read_fluxnet(sample_path(), **SAMPLE_ATTRIBUTES | {"igbp": "PRAIRIE"}))
    with pytest.raises(ValueError, match="missing variable latitude, igbp"):
        prepare_forcing(read_fluxnet(sample_path()))


FULL = real_data_path("fluxnet/FLX_US-AR1_FLUXNET2015_SUBSET_DD_2009-2012_1-3.csv")


@pytest.mark.skipif(FULL is None, reason="the original FLUXNET file of US-AR1 is not here")
def test_original_file_and_its_29_february():
    site = read_fluxnet(FULL, **SAMPLE_ATTRIBUTES, sand=0.62, clay=0.11)
    assert site.sizes["time"] == 1461
    forcing = prepare_forcing(site)
    assert forcing.sizes["time"] == 1460 and not forcing.precip.isnull().any()
    assert forcing.derived_days.sel(derived="rn").item() == int(site.NETRAD.isnull().sum()) > 100


# --- files as they are published

SHORT = "\n".join(sample_path().read_text().splitlines()[:41]) + "\n"
DD = "AMF_US-AR1_FLUXNET_{}_DD_2010-2011_v1.csv"
BIF = "SITE_ID,GROUP_ID,VARIABLE_GROUP,VARIABLE,DATAVALUE\nUS-AR1,1,GRP_IGBP,IGBP,GRA\nUS-AR1,2,GRP_LOCATION,LOCATION_LAT,36.4\nUS-AR1,2,GRP_LOCATION,LOCATION_ELEV,611 m\n"


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def test_file_of_a_zip_is_chosen_by_its_content(tmp_path):
    product = {
        DD.format("BIFVARINFO"): "SITE_ID,VARIABLE,DATAVALUE\nUS-AR1,VAR_INFO_VARNAME,TA_F\n",
        DD.format("ERA5"): "TIMESTAMP,TA_ERA\n20100101,1\n",
        DD.format("FLUXMET"): SHORT,
        "AMF_US-AR1_FLUXNET_BIF_2010-2011_v1.csv": BIF,
        "__MACOSX/._" + DD.format("FLUXMET"): b"\x00\x05\x16\x07",
    }
    path = zipped(tmp_path / "AMF_US-AR1_FLUXNET_2010-2011_v1.zip", product)
    site = read_fluxnet(path)
    xr.testing.assert_equal(site.TA_F, read_fluxnet(write(tmp_path, SHORT)).TA_F)
    assert (site.igbp.item(), site.latitude.item(), site.elevation.item()) == ("GRA", 36.4, 611.0)
    assert read_fluxnet(path, elevation=5.0).elevation.item() == 5.0  # what is said wins over what is found
    del product[DD.format("FLUXMET")]
    with pytest.raises(ValueError, match=r"no daily CSV.*ERA5_DD.*lacks TA_F, SW_IN_F, VPD_F, P_F"):
        read_fluxnet(zipped(path, product))
    two = {NAME: SHORT, NAME.replace("US-AR1", "US-ARM"): SHORT}
    with pytest.raises(ValueError, match="several daily files in this zip: .*US-AR1.*US-ARM"):
        read_fluxnet(zipped(tmp_path / "two.zip", two))
    assert read_fluxnet(tmp_path / "two.zip", site="US-ARM").site.item() == "US-ARM"
    xr.testing.assert_equal(read_fluxnet(zipped(path, {NAME: SHORT.encode("utf-16")})), read_fluxnet(write(tmp_path, SHORT)))
    with pytest.raises(ValueError, match="US-AR1_.*zip: an Excel workbook"):
        read_fluxnet(zipped(path, {"[Content_Types].xml": ""}))
    assert "SUBSET" in read_fluxnet(zipped(path, {NAME: SHORT, NAME.replace("SUBSET_", ""): SHORT})).attrs["source"]


@pytest.mark.parametrize("separator, coding", [(",", "utf-8"), (";", "latin-1"), ("\t", "utf-8-sig")])
def test_site_information_as_it_circulates(tmp_path, separator, coding):
    text = BIF + "US-AR1,3,GRP_HEIGHTC,HEIGHTC,\nUS-AR1,4,GRP_LOC,LOCATION_LONG,-9999\nUS-AR1,5,GRP_TEAM,TEAM_MEMBER_NAME,José\n"
    text += "US-AR1,6,GRP_SOIL_TEX,SOIL_TEX_SAND,60\nUS-AR1,6,GRP_SOIL_TEX,SOIL_TEX_CLAY,10\nUS-AR1,7,GRP_SOIL_TEX,SOIL_TEX_SAND,80\n"
    (tmp_path / "BIF.csv").write_bytes(text.replace(",", separator).replace("\n", "\r\n").encode(coding))
    assert read_site_info(tmp_path / "BIF.csv", "US-AR1") == {"igbp": "GRA", "latitude": 36.4, "elevation": 611.0, "sand": 0.6, "clay": 0.1}
    without = "\n".join(line.split(",", 2)[2] if i else "VARIABLE_GROUP,VARIABLE,DATAVALUE" for i, line in enumerate(BIF.splitlines()))
    (tmp_path / "SITEINFO.csv").write_text(without)
    assert read_site_info(tmp_path / "SITEINFO.csv", "DE-Hai")["latitude"] == 36.4  # ICOS: a file of one site names none


def test_site_information_that_misleads(tmp_path):
    path = tmp_path / "BIF.csv"
    path.write_text(BIF.replace("611 m", "high"))
    with pytest.raises(ValueError, match="BIF.csv: LOCATION_ELEV of US-AR1 is 'high'"):
        read_site_info(path, "US-AR1")
    path.write_text(BIF + "US-AR1,9,GRP_HEIGHTC,HEIGHTC,20\nUS-AR1,8,GRP_HEIGHTC,HEIGHTC,0.5\n")
    with pytest.warns(UserWarning, match="HEIGHTC of US-AR1 is reported as 20, 0.5"):
        assert read_site_info(path, "US-AR1")["canopy_height"] == 0.5
    path.write_bytes(b"PK\x03\x04\x14\x00\x06\x00")
    with pytest.raises(ValueError, match="BIF.csv: not a CSV"):
        read_site_info(path, "US-AR1")


def zip_of(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return packed.getvalue()


LINES = SHORT.splitlines()
SAME = {
    "gzip": lambda t: gzip.compress(t.encode()),
    "gzip under another name": lambda t: gzip.compress(t.encode()),
    "zip under another name": lambda t: zip_of({NAME: t}),
    "Latin-1, with a column of text": lambda t: "\n".join(x + (",NOTE" if not i else ",Météo") for i, x in enumerate(t.splitlines())).encode("latin-1"),
    "lower case but for the date": lambda t: ("TIMESTAMP" + t[9:].split("\n", 1)[0].lower() + "\n" + t.split("\n", 1)[1]).encode(),
    "UTF-16": lambda t: t.encode("utf-16"),
    "carriage returns": lambda t: t.replace("\n", "\r").encode(),
    "byte-order mark": lambda t: t.encode("utf-8-sig"),
    "ISO dates": lambda t: re.sub(r"(?m)^(\d{4})(\d\d)(\d\d),", r"\1-\2-\3,", t).encode(),
    "stamped at six": lambda t: re.sub(r"(?m)^(\d{4})(\d\d)(\d\d),", r"\1-\2-\3T06:00:00,", t).encode(),
    "dates as floats": lambda t: re.sub(r"(?m)^(\d{8}),", r"\1.0,", t).encode(),
    "semicolons, decimal commas": lambda t: t.replace(",", ";").replace(".", ",").encode(),
    "blanks and lower case in the header": lambda t: (t.split("\n", 1)[0].lower().replace(",", ", ") + "\n" + t.split("\n", 1)[1]).encode(),
    "a comma behind every row": lambda t: (t.split("\n", 1)[0] + "\n" + t.split("\n", 1)[1].replace("\n", ",\n")).encode(),
}


@pytest.mark.parametrize("form", SAME)
def test_the_same_table_in_another_dress(tmp_path, form):
    path = tmp_path / (NAME + ".gz" * (form == "gzip"))
    path.write_bytes(SAME[form](SHORT))
    xr.testing.assert_equal(read_fluxnet(path), read_fluxnet(write(tmp_path, SHORT, "FLX_US-AR1_plain_DD_.csv")))


def row(i, text):
    return "\n".join([*LINES[:i], text, *LINES[i + 1 :]]) + "\n"


BROKEN = {
    "cut inside the last row": (SHORT[:-60], "line 41 has .* values, the header 16 columns; the file is cut short"),
    "one value too many": (row(7, LINES[7] + ",1"), "line 8 has 17 values"),
    "a column twice": ("\n".join(x + ("," + ("TA_F" if not i else "99")) for i, x in enumerate(LINES)), "column TA_F stands twice"),
    "text in a number": (row(7, LINES[7].replace(LINES[7].split(",")[1], "12.3*", 1)), r"column TA_F, line 8: '12.3\*' is not a number"),
    "a header again": (row(7, LINES[0]), "column TA_F, line 8: 'TA_F' is not a number"),
    "backwards": ("\n".join([LINES[0], *LINES[:0:-1]]), "unsorted dates"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_structure_of_the_table_is_checked(tmp_path, case):
    text, message = BROKEN[case]
    with pytest.raises(ValueError, match=f"US-AR1.*{message}"):
        read_fluxnet(write(tmp_path, text))


def test_only_cut_columns_stand_in_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="no GPP_NT_VUT_REF.*GPP_NT_CUT_REF.*stand in"):
        site = read_fluxnet(write(tmp_path, SHORT.replace("_VUT_", "_CUT_")))
    xr.testing.assert_equal(site, read_fluxnet(write(tmp_path, SHORT)))


def test_out_of_range_is_an_option_of_the_reader(tmp_path):
    cells = LINES[7].split(",")
    cells[LINES[0].split(",").index("SW_IN_F")] = "-0.6"
    path = write(tmp_path, row(7, ",".join(cells)))
    with pytest.raises(ValueError, match="SW_IN_F: -0.6 W m-2 is below 0 at site US-AR1 on 2010-01-07.*out_of_range="):
        read_fluxnet(path)
    with pytest.warns(UserWarning, match="SW_IN_F outside"):
        assert read_fluxnet(path, out_of_range="clip").SW_IN_F[0, 6] == 0


def as_files(cube, folder, kinds):
    """The sites of a synthetic cube as FLUXNET2015 files, SUBSET or FULLSET, and their attributes by site code."""
    subset = "TA_F SW_IN_POT SW_IN_F VPD_F P_F CO2_F_MDS LE_F_MDS LE_F_MDS_QC NEE_VUT_REF NEE_VUT_REF_QC RECO_NT_VUT_REF GPP_NT_VUT_REF".split()
    columns = {"SUBSET": subset, "FULLSET": [*subset, "TA_F_MIN", "TA_F_MAX", "TA_F_DAY", "VPD_F_DAY"]}
    files, attributes = [], {name: {} for name in ("latitude", "elevation", "igbp")}
    for i, kind in enumerate(kinds):
        one, code = cube.isel(site=i), f"XX-{i:03d}"
        table = pd.DataFrame({"TIMESTAMP": cube.get_index("time").strftime("%Y%m%d")} | {v: one[v].fillna(-9999).values for v in columns[kind] if v in cube})
        files.append(folder / f"FLX_{code}_FLUXNET2015_{kind}_DD_2001-2002_1-4.csv")
        table.to_csv(files[-1], index=False)
        for name in attributes:
            attributes[name][code] = one[name].item()
    return files, attributes


@pytest.mark.parametrize("kinds", [["SUBSET"] * 6, ["SUBSET"] * 3 + ["FULLSET"] * 3], ids=["subset", "both"])
def test_subset_files_train_alone_and_beside_fullset_files(kinds, tmp_path):
    """A SUBSET file has no extremes and no daytime means: they are derived, site by site, and a network learns from them like from any other."""
    files, attributes = as_files(synthetic_cube(6, 2, spinup="none"), tmp_path, kinds)
    cube = read_fluxnet(files, progress=False, **attributes)
    hybrid = HybridModel(wroasted(), ["igbp", "bioclim"], spinup="none")
    with pytest.warns(UserWarning, match="XX-001.*: the daily range is taken from radiation"):
        parameters = hybrid.fit(cube, epochs=1, progress=False).predict_parameters(cube)
    assert bool(np.isfinite(parameters.to_array()).all()) and bool((parameters.std("site").to_array() > 0).any())


def test_an_archive_that_is_damaged_or_encrypted_is_refused_by_name(tmp_path):
    whole = zipped(tmp_path / NAME.replace("_DD", "").replace(".csv", ".zip"), {NAME: sample_path().read_text()})
    content = whole.read_bytes()
    for faulty in (content[:3000] + bytes(300) + content[3300:], content[:-3000],
                   content[:6] + bytes([content[6] | 1]) + content[7:].replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")):
        whole.write_bytes(faulty)
        with pytest.raises(ValueError, match=r"1-3.zip: not a zip file, or truncated, damaged or encrypted"):
            read_fluxnet(whole)
    with pytest.raises(ValueError, match=r"1-3.zip: not a zip file, or truncated, damaged or encrypted"):
        read_fluxnet(tmp_path)  # the folder
