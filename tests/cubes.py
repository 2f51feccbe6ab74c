"""Small valid inputs for the tests of the data layer."""

import numpy as np
import pandas as pd
import xarray as xr

DAYS = pd.date_range("2003-01-01", "2005-12-31")
SITES = ["XX-Aaa", "XX-Bbb", "XX-Ccc"]


def small_cube(days: pd.DatetimeIndex = DAYS, sites: list[str] = SITES) -> xr.Dataset:
    """A cube of temperate sites with plausible seasons and every required variable; deterministic."""
    rng = np.random.default_rng(0)
    season = np.sin(2 * np.pi * (days.day_of_year.values - 110) / 365)[None] + np.zeros((len(sites), 1))
    noise = rng.normal(size=season.shape)
    series = {
        "TA_F": (10 + 10 * season + 2 * noise, "degC"),
        "SW_IN_F": (130 + 90 * season, "W m-2"),
        "VPD_F": (6 + 4 * season, "hPa"),
        "P_F": (np.where(noise > 0.5, 6 * noise, 0.0), "mm d-1"),
        "GPP_NT_VUT_REF": (5 + 4 * season, "gC m-2 d-1"),
        "NEE_VUT_REF": (-1 - 2 * season, "gC m-2 d-1"),
        "NEE_VUT_REF_QC": (np.full(season.shape, 0.95), "1"),
        "LE_F_MDS": (50 + 40 * season, "W m-2"),
        "FAPAR": (0.5 + 0.3 * season, "1"),
    }
    ds = xr.Dataset(coords={"site": sites, "time": days})
    for name, (values, unit) in series.items():
        ds[name] = ("site", "time"), values, {"units": unit}
    n = len(sites)
    for name, value, unit in [("latitude", 50.0, "degrees_north"), ("elevation", 100.0, "m"), ("sand", 0.4, "1"), ("clay", 0.2, "1")]:
        ds[name] = "site", np.full(n, value), {"units": unit}
    ds["igbp"] = "site", (["DBF", "GRA", "OSH"] * n)[:n]
    return ds


def put(ds: xr.Dataset, name: str, value: float, site: int = 1, days: slice = slice(40, 41)) -> xr.Dataset:
    """`ds` with `value` at one site and some days of `name`."""
    values = ds[name].values.copy()
    values[site, days] = value
    return ds.assign({name: ds[name].copy(data=values)})
