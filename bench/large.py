"""A training whose sites lie in a Zarr store, read some at a time: peak memory and time for some numbers of sites, beside the training in memory.

    python bench/large.py [--sites 1000 4000 16000] [--years 3]

Each in a process of its own: the weather of 100 made-up sites under many names, one epoch of 64 sites a step, a hybrid of WROASTED without spin-up. Peak memory is that beyond what the same
training of 200 sites takes, which holds the programs. Prints a table.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import hybridecosys as he

KEEP = ["TA_F", "SW_IN_F", "VPD_F", "P_F", "NETRAD", "CO2", "GPP_NT_VUT_REF", "NEE_VUT_REF", "ET", "igbp", "koppen", "latitude", "longitude", "elevation", "sand", "clay"]


def peak() -> float:
    """Peak memory of this process (MB)."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def write_store(path: Path, n: int, years: int) -> None:
    """The cube of 100 made-up sites, over and over, some sites after the other."""
    few = he.synthetic_cube(n_sites=100, years=years, spinup="none")
    few = few[[v for v in KEEP if v in few]]
    for first in range(0, n, 100):
        part = few.assign_coords(site=np.array([f"{i:08d}" for i in range(first, first + 100)]))
        part.chunk(site=100, time=-1).to_zarr(path, consolidated=False, **({"append_dim": "site"} if first else {"mode": "w"}))


def one(path: str, n: int, how: str) -> None:
    """Train at `n` sites of the store, and print peak memory (MB), seconds and the last cost."""
    cube = xr.open_zarr(path, chunks=None, consolidated=False).isel(site=slice(n))
    with tempfile.TemporaryDirectory() as folder:
        given = he.LargeCube(cube, folder, 250) if how == "store" else cube.load()
        began = time.perf_counter()
        hybrid = he.HybridModel(he.wroasted(), features=["koppen", "bioclim"], spinup="none")
        hybrid.fit(given, epochs=1, batch_size=64, max_years=2, progress=False)
        print(peak(), time.perf_counter() - began, float(hybrid.losses[hybrid.losses.target == "total"].loss.iloc[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sites", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--years", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("PATH", "N", "HOW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of made-up weather, the same hundred over and over
    if options.one:
        one(options.one[0], int(options.one[1]), options.one[2])
        return
    with tempfile.TemporaryDirectory() as folder:
        store, rows = Path(folder) / "sites.zarr", []
        write_store(store, max(options.sites), options.years)
        for n in (200, *options.sites):
            for how in ("memory", "store"):
                said = subprocess.run([sys.executable, __file__, "--one", str(store), str(n), how], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
                rows.append((n, how, *map(float, said[-3:])))
    table = pd.DataFrame(rows, columns=["sites", "from", "peak_MB", "seconds", "cost"])
    table["beyond_200_sites_MB"] = table.peak_MB - table["from"].map(table[table.sites == 200].set_index("from").peak_MB)
    print(table.round({"peak_MB": 0, "seconds": 1, "beyond_200_sites_MB": 0}).to_string(index=False))


if __name__ == "__main__":
    main()
