"""The study, from the real cube to its reports, one command after the other: `make study`.

Parts that are finished are left as they are, one that was interrupted goes on, so the command can be stopped and called again. Time, processor time and
peak memory of each part are kept in STUDY/parts.csv and shown at the end.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from hybridecosys.data.cube import real_data_path

FEW = ["--methods", "default", "global", "hybrid"]
PARTS = {
    "sites": ["calibrate"],
    "agreement": ["agree"],
    "held_out": ["crossval", "--methods", "default", "global", "by_type", "hybrid", "ensemble", "sequence", "trees", "site"],
    "years": ["crossval", "--scheme", "time", *FEW, "trees"],
    "types": ["crossval", "--scheme", "type", *FEW, "trees"],
    "climates": ["crossval", "--scheme", "climate", *FEW, "trees"],
    "without_water": ["crossval", "--k", "5", *FEW, "--targets", "gpp", "nee", "reco", "agb"],
}  # fmt: skip


def command(part: str, folder: Path, cube: Path, greenness: str) -> list[str]:
    """What is to be called for a part, with --resume where it has been begun."""
    verb, *more = PARTS[part]
    out = folder / part
    line = [str(Path(sys.executable).with_name("hybridecosys")), verb, "--out", str(out), *more]
    if verb == "agree":  # its cube and model are the calibration's
        line += ["--calibration", str(folder / "sites")]
    if (out / "options.json").is_file():
        return [*line, "--resume"]
    if verb != "agree":
        line += ["--cube", str(cube), "--greenness", greenness, "--on-gap", "longest"]
    return line + (["--together", "10"] if verb == "crossval" else []) + (["--calibration", str(folder / "sites")] if part == "held_out" else [])


def finished(part: str, folder: Path) -> bool:
    """Whether a part has written its scores, which come last."""
    return (folder / part / "report.html").is_file()


def run(part: str, folder: Path, cube: Path, greenness: str) -> dict:
    """Do a part; returns the seconds of wall and processor time and the peak memory (GB) that it took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    line = command(part, folder, cube, greenness)
    if not (folder / part / "scores.csv").is_file():
        subprocess.run(line, check=True)
    if not finished(part, folder):
        subprocess.run([line[0], "report", str(folder / part)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"part": part, "wall_s": round(time.perf_counter() - began), "processor_s": round(used), "peak_gb_so_far": round(after.ru_maxrss / 1e6, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cube", default=real_data_path(), help="the real cube; by default that of the folder HYBRIDECOSYS_DATA, or beside the checkout")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--greenness", default="observed", choices=["observed", "modelled"])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    options = parser.parse_args()
    if options.cube is None:
        sys.exit("the real cube is absent: set HYBRIDECOSYS_DATA to the folder that holds fluxnet/fluxnet2015_daily.nc")
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "parts.csv"
    for part in options.parts:
        if finished(part, options.out):
            continue
        print(f"-- {part}", flush=True)
        row = pd.DataFrame([run(part, options.out, Path(options.cube), options.greenness)])
        row.to_csv(file, mode="a", header=not file.exists(), index=False)
    if file.exists():
        print(pd.read_csv(file).groupby("part", sort=False).agg({"wall_s": "sum", "processor_s": "sum", "peak_gb_so_far": "max"}).to_string())
    print("\n".join(f"report: {os.path.relpath(options.out / part / 'report.html')}" for part in options.parts))


if __name__ == "__main__":
    main()
