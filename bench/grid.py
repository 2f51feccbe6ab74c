"""A grid of 100,000 cells and a year on a distributed cluster of this machine, against the plain run of the same cells in memory.

    python bench/grid.py [--cells 100000] [--years 1] [--workers 2] [--tile 50 80] [--folder FOLDER]

Seven daily outputs, no spin-up, float32. Both are measured after a first run of the same shape, so without compilation; the cluster's figures are of its
client and all its workers together, from reading the forcing to the last byte of the result. Prints JSON.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

import hybridecosys as he
from hybridecosys.data.weather import synthetic_weather
from hybridecosys.model.grid import ATTRIBUTES_OF_A_CELL, cells_to_sites
from hybridecosys.model.structure import FORCING

OUTPUTS = ("gpp", "nee", "eco_respiration", "evapotranspiration", "transpiration", "fapar_bare", "aboveground_biomass")


def peak() -> float:
    """Peak resident memory of this process since it began (MB), not of its parent."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def write_forcing(path: str, cells: int, years: int, tile: list[int]) -> None:
    """Weather of 200 made-up sites, a little different in every cell, in tiles of a Zarr store."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few = he.prepare_forcing(synthetic_weather(200, years, seed=0))
    lat = np.linspace(70, -50, max(1, int(np.sqrt(cells / 1.6))))
    lon = np.linspace(-179, 179, cells // len(lat))
    rng, shape = np.random.default_rng(0), (len(lat), len(lon))
    site = rng.integers(0, 200, shape)
    out = xr.Dataset(coords={"lat": lat, "lon": lon, "time": few.time})
    for name in ATTRIBUTES_OF_A_CELL:
        out[name] = ("lat", "lon"), few[name].values[site]
    for name in (n for n in FORCING if n != "disturbance"):
        values = few[name].values.T.astype(np.float32)[:, site]
        if name in ("precip", "t_air", "vpd_day", "rg"):
            values *= rng.uniform(0.95, 1.05, shape).astype(np.float32)
        out[name] = ("time", "lat", "lon"), values, {"units": FORCING[name]}
    out.chunk(lat=tile[0], lon=tile[1], time=-1).to_zarr(path, zarr_format=3, consolidated=False)


def plain(path: str) -> dict:
    """`simulate` of all cells at once, from and to memory."""
    sites = cells_to_sites(xr.open_zarr(path, consolidated=False, chunks=None).load())
    model = he.wroasted()
    took = [_timed(lambda: he.simulate(model, sites, spinup="none", outputs=OUTPUTS)) for _ in range(3)]
    return {"cells": sites.sizes["site"], "days": sites.sizes["time"], "processor_s": min(t[0] for t in took[1:]), "wall_s": min(t[1] for t in took[1:]), "peak_MB": peak()}


def _timed(do) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    do()
    return time.process_time() - cpu, time.perf_counter() - wall


def in_process(path: str, folder: str) -> dict:
    """`simulate_grid` without a cluster."""
    def run(i):
        he.simulate_grid(he.wroasted(), xr.open_zarr(path, consolidated=False), f"{folder}/here{i}", spinup="none", outputs=OUTPUTS, progress=False)

    took = [_timed(lambda i=i: run(i)) for i in range(2)]
    return {"first_processor_s": took[0][0], "first_wall_s": took[0][1], "processor_s": took[1][0], "wall_s": took[1][1], "peak_MB": peak()}


def on_cluster(path: str, folder: str, workers: int) -> dict:
    """`simulate_grid` on a local cluster of `workers` processes with a thread each; the second of two runs is without compilation."""
    from distributed import Client, LocalCluster

    result = {}
    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        forcing = xr.open_zarr(path, consolidated=False)
        for name in ("first", "second"):
            before, began, mine = client.run(time.process_time), time.perf_counter(), time.process_time()
            he.simulate_grid(he.wroasted(), forcing, f"{folder}/{name}", spinup="none", outputs=OUTPUTS, progress=False)
            wall, mine, after = time.perf_counter() - began, time.process_time() - mine, client.run(time.process_time)
            worked = sum(after[w] - before[w] for w in after)
            result[name] = {"processor_s": worked + mine, "of_client_s": mine, "wall_s": wall}
        result["peak_MB_of_a_worker"] = max(client.run(peak).values())
    size = sum(f.stat().st_size for f in Path(folder, "second").rglob("*") if f.is_file())
    return {**{f"first_{k}": v for k, v in result.pop("first").items()}, **result.pop("second"), **result, "workers": workers, "store_MB": size / 2**20}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--years", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tile", type=int, nargs=2, default=[50, 80], help="cells along latitude and longitude")
    parser.add_argument("--folder", help="where to keep forcing and results (about 3 GB); by default a temporary folder")
    parser.add_argument("--only", choices=("write_forcing", "plain", "in_process", "on_cluster"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        path = options.folder + "/forcing"
        run = {"write_forcing": lambda: write_forcing(path, options.cells, options.years, options.tile), "plain": lambda: plain(path),
               "in_process": lambda: in_process(path, options.folder), "on_cluster": lambda: on_cluster(path, options.folder, options.workers)}
        return print(json.dumps(run[options.only]()))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        def child(part):
            done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--folder", folder, "--only", part], capture_output=True, text=True, env=os.environ)
            if done.returncode:
                sys.exit(done.stderr)
            return json.loads(done.stdout.strip().splitlines()[-1])

        child("write_forcing")
        result = {part: child(part) for part in ("plain", "in_process", "on_cluster")}
    n = result["plain"]["cells"] * result["plain"]["days"]
    for part in result.values():
        part["processor_us_per_cell_day"] = 1e6 * part["processor_s"] / n
    for what in ("processor_s", "wall_s"):
        result[f"ratio_{what}"] = result["on_cluster"][what] / result["plain"][what]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
