"""A grid of many cells and a year on a distributed cluster of this machine, against the plain run of cells of the same grid in memory.

    python bench/grid.py [--cells 1000000] [--chunks space|time] [--workers 2] [--tile 50 80] [--kill] [--folder FOLDER]

Seven daily outputs, no spin-up, float32. The forcing lies in a Zarr store, in chunks of a tile and all days (space) or of a month and all cells (time). Both are measured after a first run of
the same shape, so without compilation: the plain run on `--plain` cells, three times before and three times after; the cluster's figures are of its
client and all its workers together, from opening the
forcing to the last byte of the result. Memory of each worker is read every second. With `--kill` a worker is killed when half of the result is there. Prints JSON.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
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
SERIES = tuple(n for n in FORCING if n != "disturbance")
RUN = {"spinup": "none", "outputs": OUTPUTS, "progress": False}


def memory(pid: int | str = "self", what: str = "VmHWM") -> float:
    """Peak (VmHWM) or present (VmRSS) resident memory of a process (MB); 0 where it has ended."""
    try:
        return int(re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024
    except (OSError, TypeError):
        return 0.0


def write_forcing(path: str, cells: int, years: int, tile: list[int], chunks: str) -> None:
    """Weather of 200 made-up sites, a little different in every cell, in a Zarr store, some rows of cells (or one month) after the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few = he.prepare_forcing(synthetic_weather(200, years, seed=0))
    lat = np.linspace(70, -50, max(1, int(np.sqrt(cells / 1.6))))
    lon = np.linspace(-179, 179, cells // len(lat))
    rng, shape = np.random.default_rng(0), (len(lat), len(lon))
    site, factor = rng.integers(0, 200, shape), rng.uniform(0.95, 1.05, shape).astype(np.float32)
    days, chunk = few.sizes["time"], (30, *shape) if chunks == "time" else (few.sizes["time"], *tile)
    empty = xr.Dataset({n: (("lat", "lon"), few[n].values[site]) for n in ATTRIBUTES_OF_A_CELL}, {"lat": lat, "lon": lon, "time": few.time})
    import dask.array

    lazy = {n: (("time", "lat", "lon"), dask.array.zeros((days, *shape), chunks=chunk, dtype=np.float32), {"units": FORCING[n]}) for n in SERIES}
    empty.assign(lazy).to_zarr(path, zarr_format=3, consolidated=False, compute=False, encoding={n: {"chunks": chunk} for n in SERIES})
    step = chunk[0] if chunks == "time" else chunk[1]
    for first in range(0, days if chunks == "time" else len(lat), step):
        part = slice(first, first + step)
        when, rows = (part, slice(None)) if chunks == "time" else (slice(None), part)
        for name in SERIES:
            values = few[name].values.T.astype(np.float32)[when][:, site[rows]]
            if name in ("precip", "t_air", "vpd_day", "rg"):
                values *= factor[rows]
            xr.Dataset({name: (("time", "lat", "lon"), values)}).to_zarr(path, region={"time": when, "lat": rows, "lon": slice(None)}, consolidated=False)


def plain(path: str, cells: int) -> dict:
    """`simulate` of the first cells at once, from and to memory."""
    grid = xr.open_zarr(path, consolidated=False, chunks=None)
    sites = cells_to_sites(grid.isel(lat=slice(0, max(1, cells // grid.sizes["lon"]))).load())
    model = he.wroasted()
    took = np.array([timed(lambda: he.simulate(model, sites, spinup="none", outputs=OUTPUTS)) for _ in range(4)])[1:]
    n = sites.sizes["site"] * sites.sizes["time"]
    return {"cells": sites.sizes["site"], "processor_us_per_cell_day": (1e6 * took[:, 0] / n).tolist(), "wall_us_per_cell_day": (1e6 * took[:, 1] / n).tolist(), "peak_MB": memory()}


def timed(do) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    do()
    return time.process_time() - cpu, time.perf_counter() - wall


class Watch(threading.Thread):
    """Reads the memory of the workers every second; kills one, if it is to, when half the tiles are there."""

    def __init__(self, client, store: str, kill: bool):
        super().__init__(daemon=True)
        self.client, self.store, self.kill, self.seen, self.over = client, store, kill, {}, threading.Event()

    def run(self):
        workers, done = list(self.client.run(os.getpid).values()), Path(self.store, ".tiles", "finished", "c")
        while not self.over.wait(1):
            for pid in workers:
                self.seen.setdefault(pid, []).append(memory(pid, "VmRSS"))
            if self.kill and done.is_dir() and len(os.listdir(done)) >= self.kill:
                os.kill(workers[0], signal.SIGKILL)
                self.kill = 0

    def stop(self) -> dict:
        self.over.set()
        self.join()
        longest = sorted(self.seen.values(), key=len)[-2:]
        quarter = lambda values, i: float(np.median(values[len(values) * i // 4: len(values) * (i + 1) // 4])) if len(values) > 7 else float("nan")
        return {"worker_MB_second_quarter": [quarter(v, 1) for v in longest], "worker_MB_last_quarter": [quarter(v, 3) for v in longest], "worker_MB_peak": max(map(max, self.seen.values()))}


def on_cluster(path: str, folder: str, workers: int, tile: list[int], kill: bool) -> dict:
    """`simulate_grid` on a local cluster of `workers` processes with a thread each, after a first run of a few tiles that compiles it."""
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        forcing, size = xr.open_zarr(path, consolidated=False), dict(zip(("lat", "lon"), tile))
        first = forcing.isel(lat=slice(0, tile[0]), lon=slice(0, 2 * workers * tile[1]))
        he.simulate_grid(he.wroasted(), first.load(), f"{folder}/first", tile=size, **RUN)
        n_tiles = -(-forcing.sizes["lat"] // tile[0]) * -(-forcing.sizes["lon"] // tile[1])
        watch = Watch(client, f"{folder}/second", n_tiles // 2 if kill else 0)
        watch.start()
        before, began, mine = client.run(time.process_time), time.perf_counter(), time.process_time()
        he.simulate_grid(he.wroasted(), forcing, f"{folder}/second", tile=size, **RUN)
        wall, mine, after = time.perf_counter() - began, time.process_time() - mine, client.run(time.process_time)
        worked = sum(after[w] - before.get(w, 0) for w in after)
        result = {"cells": forcing.sizes["lat"] * forcing.sizes["lon"], "processor_s": worked + mine, "of_client_s": mine, "wall_s": wall, "client_peak_MB": memory(), **watch.stop()}
    size = sum(f.stat().st_size for f in Path(folder, "second").rglob("*") if f.is_file())
    lazily = xr.open_zarr(f"{folder}/second", consolidated=False)
    assert all(lazily[n].chunks is not None for n in OUTPUTS) and np.isfinite(lazily.gpp.isel(time=[0, -1]).values).all()
    n = result["cells"] * forcing.sizes["time"]
    return {**result, "processor_us_per_cell_day": 1e6 * result["processor_s"] / n, "wall_us_per_cell_day": 1e6 * wall / n, "workers": workers, "store_bytes_per_value": size / n / len(OUTPUTS)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--plain", type=int, default=50_000, help="cells of the plain run")
    parser.add_argument("--years", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--chunks", choices=("space", "time"), default="space")
    parser.add_argument("--kill", action="store_true", help="kill a worker half-way")
    parser.add_argument("--tile", type=int, nargs=2, default=[50, 80], help="cells along latitude and longitude")
    parser.add_argument("--folder", help="where to keep forcing and results (25 GB for a million cells); by default a temporary folder")
    parser.add_argument("--only", choices=("write_forcing", "plain", "on_cluster"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        path = options.folder + "/forcing"
        run = {"write_forcing": lambda: write_forcing(path, options.cells, options.years, options.tile, options.chunks), "plain": lambda: plain(path, options.plain),
               "on_cluster": lambda: on_cluster(path, options.folder, options.workers, options.tile, options.kill)}
        return print(json.dumps(run[options.only]()))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        def child(part):
            done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--folder", folder, "--only", part], capture_output=True, text=True, env=os.environ)
            if done.returncode:
                sys.exit(done.stderr)
            return json.loads(done.stdout.strip().splitlines()[-1])

        child("write_forcing")
        before, result, after = child("plain"), child("on_cluster"), child("plain")
    plainly = sorted(before["processor_us_per_cell_day"] + after["processor_us_per_cell_day"])
    result = {"plain_before": before, "on_cluster": result, "plain_after": after, "ratio_to_median_of_plain": result["processor_us_per_cell_day"] / float(np.median(plainly)),
              "ratio_to_least_of_plain": result["processor_us_per_cell_day"] / plainly[0]}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
