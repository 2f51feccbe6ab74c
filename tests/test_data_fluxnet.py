"""FLUXNET files: what is read, and files that must be refused."""

import zipfile

import numpy as np
import pandas as pd
import pytest

from hybridecosys.data.cube import real_data_path
from hybridecosys.data.fluxnet import SAMPLE_ATTRIBUTES, read_fluxnet, sample_path, sample_site
from hybridecosys.data.forcing import prepare_forcing

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
        "TIMESTAMP_START, so it is not daily",
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
        archive.writestr(NAME.replace("_DD_", "_HH_"), "x")
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
