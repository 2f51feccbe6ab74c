"""Draw nbs/images/held_out.png: seasons at five sites that a network has never seen. Needs the real cube beside the checkout; a few minutes."""

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr

import hybridecosys as he
from hybridecosys.data.cube import real_data_path

SITES = ["DE-Hai", "IT-Cpz", "US-SRM", "US-Var", "BR-Sa3"]
NEIGHBOURS = ["US-SRC", "US-SRG"]
ROWS = {"gpp": "GPP (gC m$^{-2}$ d$^{-1}$)", "evapotranspiration": "ET (mm d$^{-1}$)"}


def season(days: xr.DataArray) -> xr.DataArray:
    """The mean seasonal cycle, smoothed over nine days."""
    return days.groupby("time.dayofyear").mean().rolling(dayofyear=9, center=True, min_periods=3).mean()


def draw(observed: xr.Dataset, runs: dict[str, xr.Dataset], target: Path) -> None:
    """One column for each site, one row for each flux; runs on the days that are observed."""
    fig, axes = plt.subplots(2, len(SITES), figsize=(10.5, 4.2), sharex=True, sharey="row", layout="constrained")
    for j, site in enumerate(SITES):
        for i, flux in enumerate(ROWS):
            ax, seen = axes[i, j], observed[flux].sel(site=site)
            cycle = season(seen)
            ax.fill_between(cycle.dayofyear, 0, cycle, color="0.85", lw=0, label="observed")
            ax.plot(cycle.dayofyear, cycle, color="0.45", lw=1)
            for (name, run), colour in zip(runs.items(), ("tab:orange", "tab:blue")):
                cycle = season(run[flux].sel(site=site).reindex(time=seen.time).where(seen.notnull()))
                ax.plot(cycle.dayofyear, cycle, color=colour, lw=1.4, label=name)
            ax.set_xticks([1, 91, 182, 274], ["Jan", "Apr", "Jul", "Oct"])
            ax.spines[["top", "right"]].set_visible(False)
        axes[0, j].set_title(f"{site} ({observed.attrs[site]})", fontsize=10)
    for row, (label, top) in zip(axes, zip(ROWS.values(), (16, 6))):
        row[0].set(ylabel=label, ylim=(0, top))
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    fig.savefig(target, dpi=110)


if __name__ == "__main__":
    cube = he.open_cube(real_data_path())
    new = cube.sel(site=SITES)
    hybrid = he.HybridModel(he.wroasted(), features=["plant_form", "igbp", "bioclim", "site"], seed=0, forcing={"on_gap": "longest"})
    hybrid.fit(cube.drop_sel(site=SITES + [s for s in NEIGHBOURS if s in cube.site]), epochs=60)
    forcing = he.prepare_forcing(new, on_gap="longest")
    runs = {"default parameters": he.simulate(hybrid.model, forcing, spinup="accelerated"), "network that never saw the site": hybrid.simulate(new)}
    classes = dict(zip(SITES, map(str, new.igbp.values)))
    draw(he.observations(new).assign_attrs(classes), runs, Path(__file__).parents[1] / "nbs" / "images" / "held_out.png")
