"""Structures other than WROASTED as it comes: the small one of the package, a process that brings a pool, fewer layers, no carbon; and what is declared wrongly."""

import dataclasses
import json
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import hybridecosys as he
from hybridecosys.data.forcing import EVENTS, FORCING, event_units
from hybridecosys.data.greenness import EXTRA_FORCING, ExtraForcing
from hybridecosys.data.observations import observations
from hybridecosys.data.sites import UNITS
from hybridecosys.learning.batches import make_training_data
from hybridecosys.learning.hybrid import model_of
from hybridecosys.learning.step import site_gradients
from hybridecosys.model import plan
from hybridecosys.model import spinup as spinning
from hybridecosys.model.inputs import make_inputs
from hybridecosys.model.simulate import run
from hybridecosys.model.structure import collect_pools, model_tables
from hybridecosys.processes import soil_hydraulics
from hybridecosys.processes.process import lesser, pos

BUCKET, WROASTED = he.bucket(), he.wroasted()


@pytest.fixture(scope="module")
def cube():
    """Made with the small structure, which gives no transpiration and no leaves: neither is observed."""
    return he.synthetic_cube(n_sites=6, years=2, seed=0, model=BUCKET, spinup="reference")


@pytest.fixture(scope="module")
def forcing(cube):
    return he.prepare_forcing(cube)


# the small structure


def test_the_small_structure_is_small():
    assert len(BUCKET.approaches) == 4 and len(BUCKET.parameters) <= 10 and list(BUCKET.pools.state) == ["bucket", "plants", "humus"]
    assert "spinup.eta_heterotrophic" in BUCKET.parameter_table and "spinup.eta_autotrophic" not in BUCKET.parameter_table
    assert all(unit and meaning for unit, meaning in BUCKET.variables.values()) and BUCKET.plan().closing == ("water", "carbon")
    tables = model_tables(BUCKET)
    assert tables["pools"].loc["humus", "group"] == "carbon" and set(tables["fluxes"].index) == {"precip", "gpp", "evapotranspiration", "runoff", "eco_respiration"}
    assert tables["outputs"].loc["evapotranspiration", "CF standard name"] == "lwe_water_evaporation_rate" and "humus" in BUCKET._repr_html_()
    assert pickle.loads(pickle.dumps(BUCKET)) == BUCKET and pickle.loads(pickle.dumps(BUCKET)).fingerprint() == BUCKET.fingerprint()


def test_water_and_carbon_close_by_what_is_declared(forcing):
    rng = np.random.default_rng(0)
    drawn = {n: rng.uniform(p.lower, p.upper, forcing.sizes["site"]) for n, p in BUCKET.parameter_table.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = he.simulate(BUCKET, forcing, drawn, spinup="none", dtype="float64")
    gained = found.bucket.diff("time")
    np.testing.assert_allclose(gained, (forcing.precip - found.evapotranspiration - found.runoff).isel(time=slice(1, None)), atol=1e-9)
    carbon = (found.plants + found.humus).diff("time")
    np.testing.assert_allclose(carbon, (found.gpp - found.eco_respiration).isel(time=slice(1, None)), atol=1e-9)
    assert all(float(found[n].min()) >= 0 for n in ("bucket", "plants", "humus", "gpp", "evapotranspiration", "runoff"))
    silent = dataclasses.replace(BUCKET.processes["soil_water"], leaves=("evapotranspiration",))
    leaky = dataclasses.replace(BUCKET, approaches=tuple(silent if a.process == "soil_water" else a for a in BUCKET.approaches))
    with pytest.warns(UserWarning, match="water does not close in bucket"):
        he.simulate(leaky, forcing, {"soil_water.capacity": 30.0}, spinup="none")


def test_gradients_equal_differences(forcing):
    with jax.enable_x64(True):
        inputs = make_inputs(forcing.isel(site=[0, 3]), np.float64, spinup=False)
        given = {n: jnp.full(2, 0.6 * p.default + 0.2 * (p.lower + p.upper)) for n, p in BUCKET.parameter_table.items()}
        means = jax.jit(lambda p: jnp.stack([x.mean((0, 1)) for x in run(BUCKET, p, inputs, "none", ("gpp", "nee", "evapotranspiration"))[1].values()]))
        slopes = jax.jit(jax.jacrev(lambda p: means(p).sum(-1)))(given)  # each site has its own
        for name in BUCKET.learned:
            if name.startswith("spinup"):
                continue
            p = BUCKET.parameter_table[name]
            step = 1e-6 * (p.upper - p.lower)
            up, down = (means({**given, name: given[name] + h}) for h in (step, -step))
            np.testing.assert_allclose(slopes[name], (up - down) / (2 * step), rtol=1e-4, atol=1e-6)


def test_spin_ups_meet_and_the_equilibrium_stays(forcing):
    with jax.enable_x64(True):
        inputs = make_inputs(forcing, np.float64)
        parameters = {n: jnp.full(inputs.n_site, float(p.default)) for n, p in BUCKET.parameter_table.items()}
        dynamics = spinning.bind(BUCKET, parameters, inputs).undisturbed
        found = {kind: jax.jit(spinning.spin_up, static_argnums=2)(dynamics, inputs, kind) for kind in ("reference", "accelerated", "equilibrium")}
        later = spinning.years(dynamics, found["equilibrium"], inputs.first_year)
        assert (spinning.relative_change(dynamics.plan, found["equilibrium"], later) < 1e-4).all()
    for name in BUCKET.pools.state:
        np.testing.assert_allclose(found["accelerated"][name], found["reference"][name], rtol=1e-3)
    scaled = spinning.scale_pools(dynamics.plan, found["reference"], {"spinup.eta_heterotrophic": 2.0})
    assert (scaled["humus"] == 2 * found["reference"]["humus"]).all() and (scaled["plants"] == found["reference"]["plants"]).all()


def test_trained_saved_loaded(cube, tmp_path):
    hybrid = he.HybridModel(BUCKET, ["igbp"], spinup="none").fit(cube, epochs=6, learning_rate=0.02, progress=False, decay=False)
    cost = hybrid.losses.query("target == 'total' and split == 'train'").loss
    assert cost.iloc[-1] < cost.iloc[0] and set(hybrid.losses.target) >= {"gpp", "nee", "reco", "evapotranspiration"}
    hybrid.save(tmp_path / "hybrid")
    again = he.HybridModel.load(tmp_path / "hybrid")  # the package knows it
    assert again.model.name == "bucket" and again.simulate(cube, ["nee"]).nee.equals(hybrid.simulate(cube, ["nee"]).nee)
    with pytest.raises(ValueError, match="differ; pass the model"):
        he.HybridModel.load(tmp_path / "hybrid", WROASTED)
    with pytest.raises(ValueError, match="target fapar"):
        hybrid.fit(cube.assign(FAPAR=cube.NEE_VUT_REF_QC), epochs=1, targets=["fapar"], progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = he.calibrate(BUCKET, cube.isel(site=[0, 1]), steps=2, starts=1, spinup="none", progress=False)
    assert set(fit.parameters) == set(BUCKET.learned) and (fit.history.groupby("site").cost.last() <= fit.history.groupby("site").cost.first()).all()


def test_cross_validated_with_a_network_in_it(cube, tmp_path):
    """A network in the place of photosynthesis: compared by cross-validation, saved with it, run on a grid."""
    mine = BUCKET.replace(gpp=he.neural("gpp", ["rg", "t_air_day", "wetness"], hidden=3, bounds=(0, 20), scale={"wetness": (0, 1)}))
    assert mine.plan().enters["carbon"] == ("gpp@gpp",)
    found = he.cross_validate(cube, k=2, methods=["default", "global", "hybrid"], run_dir=tmp_path / "study", model=mine, features=["igbp"], epochs=1, spinup="none", min_sites=1, progress=False)
    assert set(found.scores.target) == {"gpp", "nee", "reco", "evapotranspiration"} and found.scores.nse.notna().any()
    again = type(found).load(tmp_path / "study", cube, mine)
    assert np.isfinite(again.simulate("hybrid", outputs=["nee"]).nee).any()
    hybrid = found.model("hybrid", found.study.names[0])
    weights = {n: v for n, v in hybrid.predict_parameters(cube).items() if "site" not in v.dims}
    assert set(weights) == set(mine.shared)
    cells = he.prepare_forcing(cube.isel(site=[0, 2]))
    sites = he.simulate(mine, cells, weights, spinup="none", outputs=["gpp"])
    grid = cells.assign_coords(lat=("site", [1.0, 2.0]), lon=("site", [5.0, 5.0])).set_index(site=["lat", "lon"]).unstack("site")
    there = he.simulate_grid(mine, grid, tmp_path / "grid.zarr", weights, spinup="none", outputs=["gpp"], progress=False)
    np.testing.assert_allclose(there.gpp.sel(lat=1.0, lon=5.0), sites.gpp[0], rtol=1e-4, atol=1e-5)


def test_a_state_of_another_structure_is_refused(forcing):
    own = he.simulate(BUCKET, forcing, spinup="none", outputs=["gpp"])
    on = he.simulate(BUCKET, forcing, state=own, outputs=["gpp"])
    assert np.isfinite(on.gpp).all()
    kept = he.approach("leaves", returns="canopy", pools={"canopy": he.Pool("water", 0.0, "water on leaves")})(lambda canopy: canopy)
    with pytest.raises(ValueError, match="lacks canopy: it is that of another model"):
        he.simulate(BUCKET.insert(after="pet", leaves=kept), forcing, state=own)


# a process that brings a pool


@he.approach("interception", returns=("canopy", "rain", "interception"), leaves="interception", pools={"canopy": he.Pool("water", 0.0, "water on leaves")},
             units={"interception": ("mm d-1", "evaporation of water on leaves")}, capacity=he.Parameter(0.2, 0, 1, "mm", "water that a unit of leaf area holds", learned=True))
def canopy_store(canopy, rain, lai, pet, capacity):
    held = canopy + rain
    dripped = pos(held - capacity * lai)
    evaporated = lesser(held - dripped, pet)
    return held - dripped - evaporated, dripped, evaporated


@pytest.fixture(scope="module")
def wide():
    """Observations of WROASTED itself."""
    return he.synthetic_cube(n_sites=3, years=1, seed=1, spinup="none")


def test_a_process_that_brings_a_pool(wide):
    wet = WROASTED.insert(before="snow_melt", interception=canopy_store)
    assert wet.pools.of("water")[-1] == "canopy" and wet.remove("interception") == WROASTED and wet.remove("interception").fingerprint() == WROASTED.fingerprint()
    tables = model_tables(wet)
    assert tables["pools"].loc["canopy", ["unit", "changed by"]].tolist() == ["mm", "interception"] and "interception" in tables["fluxes"].index
    inputs_of = he.prepare_forcing(wide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = he.simulate(wet, inputs_of, {"interception.capacity": 1.0}, spinup="none",
                            outputs=["canopy", "interception", "water_balance", "evapotranspiration", "soil_evaporation", "transpiration"],
                            dtype="float64")
    assert float(abs(found.water_balance).max()) < 1e-9 and float(found.canopy.max()) > 0 and "canopy" in found.water_pool
    np.testing.assert_allclose(found.evapotranspiration, found.soil_evaporation + found.transpiration + found.interception, atol=1e-12)


def test_a_pool_that_is_brought_spins_up_and_trains(wide):
    wet = WROASTED.insert(before="snow_melt", interception=canopy_store).for_training()
    pool = make_training_data(he.prepare_forcing(wide), observations(wide, ["gpp", "evapotranspiration"]), packed=False)
    start = {n: np.full(3, wet.parameter_table[n].default, np.float32) for n in wet.learned}
    costs, slopes = jax.jit(lambda p: site_gradients(wet, p, pool.inputs, pool.observed, "accelerated", {}))(start)
    assert all(np.isfinite(v).all() for v in (*costs.values(), *slopes.values())) and (slopes["interception.capacity"] != 0).any()


def test_three_layers_or_no_carbon(wide):
    """The fourth layer is two processes away; carbon is refused by the name of who needs it, and runs where nobody does."""
    reference = soil_hydraulics.pedotransfer

    @he.approach("soil_hydraulics", returns=reference.returns, pools={"soil": he.Pool("water", 100.0, "water", layers=3, full="w_sat")})
    def three(sand, clay):
        return tuple(values[:3] for values in reference(sand, clay))

    def reached(fraction):
        return tuple(WROASTED.processes["root_depth"](fraction)[:3])

    shallow = WROASTED.replace(soil_hydraulics=three, root_depth=reached)
    assert shallow.pools.of("water")[:4] == ("soil_1", "soil_2", "soil_3", "groundwater") and "soil_4" not in shallow.outputs
    with pytest.raises(ValueError, match="carbon_transfer cannot be removed: process root_efficiency: approach saturating_uptake asks for root"):
        WROASTED.remove("carbon_transfer")

    def even(root_share, max):
        return tuple(max * share for share in root_share)

    carbon = ("lai", "leaf_fapar", "disturbance", "turnover", "turnover_temperature", "turnover_moisture", "vegetation_turnover", "decomposition", "allocation", "maintenance_respiration",
              "autotrophic_respiration", "carbon_transfer", "ecosystem_fluxes", "aboveground_biomass")
    water = he.wroasted(greenness="observed").replace(root_efficiency=even).remove(*carbon)
    assert water.plan().closing == ("water",) and not spinning.slow_pools(water.plan()) and not any(n.startswith("spinup") for n in water.parameter_table)
    assert "NEE_VUT_REF" in water.no_targets and "GPP_NT_VUT_REF" not in water.no_targets
    for model, kind in ((shallow, "none"), (water, "accelerated")):
        given = he.prepare_forcing(wide, **model.forcing_options())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = he.simulate(model, given, spinup=kind)
        assert float(abs(found.water_balance).max()) < 1e-3 and ("final_carbon" in found) == (model is shallow)


# what is declared wrongly, and what is read again


def test_declarations_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="needs a unit"):
        he.Pool("nitrogen", 1.0)
    with pytest.raises(ValueError, match="a slow one is a single store"):
        he.Pool("carbon", 1.0, layers=2, slow=True)
    thin = he.approach("skin", returns="skin", pools={"bucket": he.Pool("water", 1.0)})(lambda pet: pet)
    with pytest.raises(ValueError, match="process soil_water: the pool bucket has been declared before"):
        BUCKET.insert(after="pet", skin=thin)
    odd = he.approach("skin", returns="skin", pools={"skin": he.Pool("carbon", 1.0, eta="eta_peat")})(lambda pet: pet)
    with pytest.raises(ValueError, match="scaled by eta_peat"):
        BUCKET.insert(after="pet", skin=odd)
    with pytest.raises(ValueError, match="others of the group water in mm"):
        collect_pools([*BUCKET.approaches, he.approach("skin", returns="skin", pools={"skin": he.Pool("water", 1.0, unit="m")})(lambda pet: pet)])
    with pytest.raises(ValueError, match="declared to enter the site, but"):
        he.approach("skin", returns="skin", enters="precip")(lambda pet: pet)
    nitrogen = he.approach("deposition", returns=("mineral", "deposited"), enters="deposited", units={"deposited": ("gN m-2 d-1", "deposition")},
                           pools={"mineral": he.Pool("nitrogen", 1.0, "mineral nitrogen", "gN m-2")})(lambda mineral, precip: (mineral + 0 * precip, 0 * precip))
    assert BUCKET.insert(after="pet", deposition=nitrogen).plan().closing == ("water", "carbon", "nitrogen")


def test_models_that_version_0_2_wrote_are_known():
    """Their fingerprint has neither what processes read and give, nor parameters without bounds."""
    old = {process: [name, {n: p for n, p in parameters.items() if None not in p}, *settings] for process, (name, parameters, _, *settings) in WROASTED.for_training().fingerprint().items()}
    assert old["turnover_moisture"][1].keys() == {"optimum", "slope_dry", "slope_wet"}
    assert model_of(json.loads(json.dumps(old)), None, "this").name == "wroasted"
    with pytest.raises(ValueError, match="this of another model: wue differ"):
        model_of({**old, "wue": ["another", {}]}, None, "this")


def test_a_process_that_reads_an_event_runs_where_it_happens():
    @he.approach("felling", returns="felled", units={"felled": ("gC m-2", "plants that are felled")})
    def fell(disturbance, plants):
        return disturbance * plants

    model = BUCKET.insert(before="respiration", felling=fell)
    assert "felling" in [a.process for a in model.plan().approaches] and "felling" not in [a.process for a in model.plan(disturbed=False).approaches]
    forcing = he.prepare_forcing(he.synthetic_cube(n_sites=2, years=1, spinup="none", model=BUCKET))
    calm = he.simulate(model, forcing, spinup="none", outputs=["gpp", "nee"])
    assert calm.nee.equals(he.simulate(BUCKET, forcing, spinup="none", outputs=["nee"]).nee)
    assert (he.simulate(model, forcing, spinup="none", outputs=["felled"]).felled == 0).all()
    forcing.disturbance[0, 100] = 0.5
    felled = he.simulate(model, forcing, spinup="reference", outputs=["felled"]).felled
    assert felled[0, 100] > 0 and (felled > 0).sum() == 1
    with pytest.raises(ValueError, match="disturbance must lie between 0 and 1"):
        he.simulate(model, forcing.assign(disturbance=forcing.disturbance * 3), spinup="none")


def test_a_series_of_ones_own_is_an_event(cube, monkeypatch):
    """A harvest acts on its day alone, carbon closes, the spin-up knows nothing of it, it may meet the weather's own event, and gradients are finite."""
    monkeypatch.setitem(EXTRA_FORCING, "cut", None)  # gone after the test

    def cuts(cube, record):
        return xr.Dataset({"cut": cube["cut"].fillna(0.0).where(record).assign_attrs(units="1")})

    @he.approach("harvest", returns=("plants", "harvested"), leaves="harvested", units={"harvested": ("gC m-2 d-1", "carbon taken away")},
                 forcing={"cut": ExtraForcing("1", "fraction of the plants that is taken", cuts, event=True)},
                 efficiency=he.Parameter(0.8, 0.1, 1, "1", "share of what is cut that is taken", learned=True))
    def mow(plants, cut, efficiency):
        return plants * (1 - efficiency * cut), plants * efficiency * cut

    assert [*event_units()] == [*EVENTS, "cut"] and event_units()["cut"] == "1"
    model = BUCKET.insert(before="respiration", harvest=mow)
    assert "harvest" in model.processes and "harvest" not in [a.process for a in model.plan(disturbed=False).approaches]
    cut = xr.zeros_like(cube.TA_F)
    calm = he.prepare_forcing(cube.assign(cut=cut), **model.forcing_options())
    assert not make_inputs(calm).disturbed and "cut" not in make_inputs(calm).forcing
    cut[0, 100] = 0.5
    forcing = he.prepare_forcing(cube.assign(cut=cut.where(cut > 0)), **model.forcing_options())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # carbon closes
        mown, plain = (he.simulate(model, f, spinup="reference", outputs=["harvested", "plants", "gpp"]) for f in (forcing, calm))
    assert (plain.harvested == 0).all() and (mown.harvested > 0).sum() == 1
    before = mown.plants[0, 99].item()
    assert mown.harvested[0, 100].item() == pytest.approx(0.8 * 0.5 * before, rel=1e-5)
    assert mown.plants[0, :100].equals(plain.plants[0, :100]) and mown.plants[1:].equals(plain.plants[1:]) and (mown.plants[0, 100:] < plain.plants[0, 100:]).all()
    np.testing.assert_allclose(mown.plants[0, 100] - plain.plants[0, 100], -mown.harvested[0, 100], rtol=1e-2)
    with pytest.raises(ValueError, match="cut must lie between 0 and 1"):
        he.simulate(model, forcing.assign(cut=forcing.cut * 3), spinup="none")
    with pytest.raises(ValueError, match="the forcing lacks cut"):
        he.simulate(model, forcing.drop_vars("cut"), spinup="none")
    both = forcing.assign(disturbance=forcing.disturbance.copy(data=np.where(np.arange(forcing.sizes["time"]) == 50, 0.3, 0.0) * np.ones((len(cube.site), 1))))
    assert he.simulate(model, both, spinup="none", outputs=["harvested"]).harvested.equals(he.simulate(model, forcing, spinup="none", outputs=["harvested"]).harvested)
    pool = make_training_data(forcing, observations(cube, ["gpp", "nee"]), packed=False)
    learned = {n: jnp.full(6, model.parameter_table[n].default, jnp.float32) for n in model.learned}
    slopes = jax.jit(lambda p: site_gradients(model, p, pool.inputs, pool.observed, "accelerated", {})[1])(learned)
    assert all(np.isfinite(v).all() for v in slopes.values()) and slopes["harvest.efficiency"][0] != 0 and (slopes["harvest.efficiency"][1:] == 0).all()
    monkeypatch.setitem(EXTRA_FORCING, "cut", dataclasses.replace(EXTRA_FORCING["cut"], unit="gC m-2 d-1"))  # an amount
    assert make_inputs(forcing.assign(cut=forcing.cut * 30)).disturbed
    with pytest.raises(ValueError, match="cut must be 0 or more"):
        make_inputs(forcing.assign(cut=-forcing.cut))


def test_what_an_event_gives_can_be_read_by_a_process_of_every_day(cube, monkeypatch):
    """Emissions of a fire enter the net flux: 0 but on its day, whether or not another site burns, in the spin-up, too."""
    monkeypatch.setitem(EXTRA_FORCING, "fire", None)

    def fires(cube, record):
        return xr.Dataset({"fire": cube["fire"].fillna(0.0).where(record).assign_attrs(units="1")})

    @he.approach("fire", returns=("plants", "emission"), leaves="emission", units={"emission": ("gC m-2 d-1", "carbon burnt")},
                 forcing={"fire": ExtraForcing("1", "burnt fraction", fires, event=True)})
    def burn(plants, fire):
        return plants * (1 - 0.5 * fire), 0.5 * plants * fire

    def with_fire(nee, emission):
        return nee + emission

    flux = he.approach("net_flux", returns="net_flux", units={"net_flux": ("gC m-2 d-1", "net flux, with fires")})(with_fire)
    model = BUCKET.insert(before="respiration", fire=burn).insert(after="respiration", net_flux=flux)
    quiet = model.plan(disturbed=False)
    assert [a.process for a in quiet.approaches] == [a.process for a in model.approaches] and "fire" not in [n for a in quiet.approaches for n in a.inputs]
    assert quiet == model.plan(disturbed=False)  # one program, not one for each call
    fire = xr.zeros_like(cube.TA_F)
    runs = {}
    for burnt in (0.0, 0.5):
        fire[0, 100] = burnt
        forcing = he.prepare_forcing(cube.assign(fire=fire), **model.forcing_options())
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # carbon closes
            runs[burnt] = he.simulate(model, forcing, spinup="reference", outputs=["net_flux", "nee", "emission", "plants"])
    assert (runs[0.0].emission == 0).all() and runs[0.0].net_flux.equals(runs[0.0].nee) and (runs[0.5].emission > 0).sum() == 1
    assert runs[0.5].plants[0, :100].equals(runs[0.0].plants[0, :100])  # the spin-up had no fire
    assert runs[0.5].emission[0, 100].item() == pytest.approx(0.25 * runs[0.0].plants[0, 99].item(), rel=1e-5)
    np.testing.assert_allclose(runs[0.5].net_flux - runs[0.5].nee, runs[0.5].emission, atol=1e-5)


def test_a_mortality_that_reads_no_event_runs_without_one():
    def dieback(root, wood, leaf, reserve, litter_fast, litter_slow):
        return root, 0.999 * wood, leaf, reserve, litter_fast, litter_slow + 0.001 * wood

    model = WROASTED.replace(disturbance=dieback)
    assert "disturbance" in [a.process for a in model.plan(disturbed=False).approaches]


def test_weather_is_declared_once():
    assert plan.FORCING is UNITS and list(EVENTS) == [n for n in UNITS if FORCING.event[n]]
