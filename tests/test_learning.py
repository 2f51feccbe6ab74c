"""Training: the cost against its formula, exact resume, seeds, sites whose gradient is not finite, and bad input."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from cubes import put
from flax import nnx

from hybridecosys.data.sites import prepare
from hybridecosys.evaluation.metrics import evaluate
from hybridecosys.learning import batches as batches_of
from hybridecosys.learning import step as one_step
from hybridecosys.learning import training
from hybridecosys.learning.cost import total_cost
from hybridecosys.learning.hybrid import HybridModel
from hybridecosys.learning.network import NetworkOptions
from hybridecosys.learning.training import NonFiniteGradient, TrainingOptions
from hybridecosys.model.bucket import bucket
from hybridecosys.model.structure import wroasted
from hybridecosys.model.twin import synthetic_cube

NET = NetworkOptions(hidden=8, layers=1, activation="relu", steepness=1.0, dropout=0.0)
PLAIN = dict(max_years=0, decay=False, weight_decay=0.0, noise=0.0, average=0.0, keep="best")


@pytest.fixture(scope="module")
def cube():
    return synthetic_cube(n_sites=6, years=2, spinup="none")


def hybrid(model=wroasted, **kwargs):
    return HybridModel(model(), ["igbp", "bioclim"], spinup="none", **({"network": NET} | kwargs))


def fit(h, cube, epochs, **kwargs):
    options = dict(PLAIN, batch_size=2, learning_rate=0.01, progress=False) | kwargs
    return h.fit(cube.isel(site=slice(0, 4)), cube.isel(site=slice(4, 6)), epochs=epochs, **options)


def weights(h):
    return [np.asarray(x) for x in jax.tree.leaves(nnx.state(h.network, nnx.Param))]


def same(a, b):
    return all(map(np.array_equal, weights(a), weights(b)))


def test_resume_is_exact_and_seeds_decide(cube, tmp_path):
    """With noise on the features and dropout, so that all that is random takes part."""
    net = dict(network=replace(NET, dropout=0.2))
    whole = fit(hybrid(**net), cube, 6, run_dir=tmp_path / "whole", noise=0.1, average=0.9)
    fit(hybrid(**net), cube, 3, run_dir=tmp_path / "part", noise=0.1, average=0.9)
    resumed = fit(hybrid(**net), cube, 6, run_dir=tmp_path / "part", noise=0.1, average=0.9, resume=True)
    assert same(whole, resumed)
    np.testing.assert_array_equal(whole.losses.loss, resumed.losses.loss)
    assert same(whole, fit(hybrid(**net), cube, 6, noise=0.1, average=0.9))
    assert not same(whole, fit(hybrid(seed=1, **net), cube, 6, noise=0.1, average=0.9))


@pytest.mark.parametrize("after", [0, 3])
def test_interrupted_run_resumes(cube, tmp_path, monkeypatch, after):
    """After epoch 3 of 6, or before the first one ends; with all that is random, and a rate that decays over the epochs."""
    options = dict(noise=0.1, average=0.9, decay=True, warmup=2, weight_decay=0.1)
    net = dict(network=replace(NET, dropout=0.2))
    whole = fit(hybrid(**net), cube, 6, **options)
    one_epoch = training.one_epoch

    def interrupted(state, *args):
        if state.epoch == after:
            raise KeyboardInterrupt
        return one_epoch(state, *args)

    monkeypatch.setattr(training, "one_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(hybrid(**net), cube, 6, run_dir=tmp_path / "run", **options)
    monkeypatch.undo()
    resumed = fit(hybrid(**net), cube, 6, run_dir=tmp_path / "run", resume=True, **options)
    assert same(whole, resumed)
    np.testing.assert_array_equal(whole.losses.loss, resumed.losses.loss)


def test_run_directory_in_use_and_other_runs(cube, tmp_path):
    fit(hybrid(), cube, 1, run_dir=tmp_path / "run")
    with pytest.raises(FileExistsError, match="in use"):
        fit(hybrid(), cube, 1, run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="another model or other options.*training"):
        fit(hybrid(), cube, 2, run_dir=tmp_path / "run", resume=True, learning_rate=0.5)
    with pytest.raises(ValueError, match="network"):
        fit(HybridModel(wroasted(), ["igbp", "bioclim"], spinup="none"), cube, 2, run_dir=tmp_path / "run", resume=True)
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        fit(hybrid(), cube, 2, run_dir=tmp_path / "nothing", resume=True)


def test_checkpoint_of_another_network(cube, tmp_path):
    fit(hybrid(), cube, 1, run_dir=tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["network"]["hidden"] = 9
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="another network"):
        fit(HybridModel(wroasted(), ["igbp", "bioclim"], spinup="none", network=replace(NET, hidden=9)), cube, 2, run_dir=tmp_path / "run", resume=True)


def test_save_and_load(cube, tmp_path):
    h = fit(hybrid(), cube, 1)
    h.losses["loss"] += np.random.default_rng(0).random(len(h.losses))  # all digits of a double, which the parser of older pandas loses
    path = h.save(tmp_path / "saved")
    again = HybridModel.load(path)
    assert same(h, again)
    np.testing.assert_array_equal(h.losses.loss, again.losses.loss)
    xr.testing.assert_equal(h.predict_parameters(cube), again.predict_parameters(cube))
    with pytest.raises(FileExistsError):
        h.save(path)
    with pytest.raises(FileNotFoundError):
        HybridModel.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="another model.*gpp_vpd"):
        HybridModel.load(path, model=wroasted().replace(gpp_vpd=lambda vpd_day, kappa, c_kappa, co2_sat: jnp.exp(-kappa * vpd_day)))


def test_one_set_for_all_sites(cube):
    h = HybridModel(wroasted(), [], spinup="none")
    fit(h, cube, 2)
    p = h.predict_parameters(cube)
    assert all(float(p[n].max() - p[n].min()) == 0 for n in p)
    defaults = h.model.parameters.default
    assert any(abs(float(p[n][0]) - defaults[n]) > 0 for n in p)


def test_training_can_start_from_another_set(cube, tmp_path):
    h = fit(hybrid(start={"wue.at_one_hpa": 6.0}), cube, 1, learning_rate=1e-6)
    assert np.allclose(h.predict_parameters(cube)["wue.at_one_hpa"], 6.0, atol=0.8)
    assert HybridModel.load(h.save(tmp_path / "saved")).start == {"wue.at_one_hpa": 6.0}
    with pytest.raises(ValueError, match="at_one_hpa.*outside"):
        hybrid(start={"wue.at_one_hpa": 60.0})
    with pytest.raises(KeyError, match="not learned"):
        hybrid(start={"disturbance.c_remain": 20.0})


def test_what_one_site_cannot_tell_is_learned_once_for_all(cube, tmp_path):
    h = hybrid()
    assert set(h.shared) == set(wroasted().for_all) <= set(h.learned) and set(h.learned) - set(wroasted().for_all) == set(wroasted().learned)
    p = fit(h, cube, 2).predict_parameters(cube)
    assert all(float(np.ptp(p[n].values)) == 0 and p[n].attrs["scope"] == "global" for n in wroasted().for_all) and float(np.ptp(p["gpp_potential.eps_max"].values)) > 0
    assert any(float(p[n][0]) != pytest.approx(wroasted().parameters.default[n], rel=1e-4) for n in wroasted().for_all)
    again = HybridModel.load(h.save(tmp_path / "saved"))
    xr.testing.assert_equal(again.predict_parameters(cube), p)
    plain = hybrid(shared=())
    assert plain.learned == wroasted().learned and hybrid(shared=["pet.alpha"]).shared == ("pet.alpha",)
    with pytest.raises(KeyError, match="pet.alpha"):
        hybrid(shared=["pet.alfa"])
    assert hybrid().model.approaches == h.model.approaches  # so they are compiled once


def test_only_chosen_parameters_are_learned(cube):
    h = fit(hybrid(learned=["gpp_potential.eps_max", "fapar.k_extinction"]), cube, 1)
    assert set(h.predict_parameters(cube).data_vars) == {"gpp_potential.eps_max", "fapar.k_extinction"}
    with pytest.raises(KeyError, match="eps_min"):
        hybrid(learned=["gpp_potential.eps_min"])
    with pytest.raises(ValueError, match="no bounds"):
        hybrid(learned=["turnover_moisture.exponent"])


def test_site_with_a_gradient_that_is_not_finite(cube, monkeypatch):
    real = one_step._site_gradients

    def broken(model, learned, inputs, observed, *args):
        costs, gradient = real(model, learned, inputs, observed, *args)
        gradient["gpp_potential.eps_max"] = gradient["gpp_potential.eps_max"].at[0].set(jnp.nan)
        return costs, gradient

    monkeypatch.setattr(one_step, "_site_gradients", broken)
    with pytest.raises(NonFiniteGradient, match="SY-00"):
        fit(hybrid(), cube, 1, nonfinite="stop")
    with pytest.warns(UserWarning, match="not finite: SY-00"):
        h = fit(hybrid(), cube, 1, nonfinite="drop")
    dropped = h.losses[h.losses.target == "dropped_sites"].loss
    assert dropped.iloc[0] == 2 and all(np.isfinite(w).all() for w in weights(h))


def test_epoch_that_breaks_a_validation_site_is_not_the_best(cube, monkeypatch):
    real = one_step._simulate_costs

    def broken(model, learned, inputs, observed, spinup):
        costs = real(model, learned, inputs, observed, spinup)
        return {t: c.at[0].set(jnp.where(jnp.isnan(c[0]), c[0], jnp.inf)) for t, c in costs.items()}

    monkeypatch.setattr(one_step, "_simulate_costs", broken)
    with pytest.warns(UserWarning, match="validation cost because it was not finite: SY-005"):
        h = fit(hybrid(), cube, 1)
    assert np.isinf(h.losses[(h.losses.split == "valid") & (h.losses.target == "total")].loss).all()
    with pytest.raises(NonFiniteGradient, match="SY-005"):
        fit(hybrid(), cube, 1, nonfinite="stop")


def test_early_stopping_keeps_the_best_epoch(cube):
    h = fit(hybrid(), cube, 30, patience=2, learning_rate=0.3)
    valid = h.losses[(h.losses.split == "valid") & (h.losses.target == "total")].set_index("epoch").loss
    assert len(valid) < 30 and valid.idxmin() == valid.index[-1] - 2


def test_last_weights_can_be_kept(cube):
    """A rate so high that the best epoch is not the last: kept are the weights of the last, which validation would not have chosen."""
    options = dict(learning_rate=0.3)
    best, last = fit(hybrid(), cube, 6, **options), fit(hybrid(), cube, 6, keep="last", **options)
    np.testing.assert_array_equal(best.losses.loss, last.losses.loss)
    valid = best.losses[(best.losses.split == "valid") & (best.losses.target == "total")].set_index("epoch").loss
    assert same(best, last) == (valid.idxmin() == 6) and same(best, fit(hybrid(), cube, int(valid.idxmin()), keep="last", **options))
    with pytest.raises(ValueError, match="keep must be"):
        TrainingOptions(keep="first")
    with pytest.raises(ValueError, match="patience"):
        TrainingOptions(keep="last", patience=3)


def test_records_cut_to_years_are_drawn_anew(cube):
    h = fit(hybrid(bucket), cube, 2, max_years=1)
    assert np.isfinite(h.losses.loss).all()
    days = prepare(cube).best_years(1).record[1]
    assert (days == 365).all()
    assert same(h, fit(hybrid(bucket), cube, 2, max_years=1)) and not same(h, fit(hybrid(bucket), cube, 2))


def test_whole_records_make_batches_of_one_shape(cube):
    """Records of one and two years: each site counts once, its cost is that in a lane of its own, and the gradient is compiled once."""
    days = np.array([[730], [365], [600], [365], [400]])
    inside = xr.DataArray(np.arange(730) < days, dims=("site", "time"))
    uneven = cube.isel(site=slice(0, 5))
    uneven = uneven.assign({n: v.where(inside).assign_attrs(v.attrs) for n, v in uneven.data_vars.items() if v.dims == ("site", "time")})
    sites = prepare(uneven)
    observed = sites.observed()
    names = [str(s) for s in uneven.site.values]
    features = xr.DataArray(np.zeros((5, 1)), dims=("site", "feature"), coords={"site": names})
    batches = batches_of.Batches([batches_of.Member(features, tuple(names))], sites, observed, TrainingOptions(batch_size=2, max_years=0))
    drawn = list(batches.epoch(1))
    assert len(drawn) == 3
    assert len({(jax.tree.structure((b.inputs, b.observed)), tuple(x.shape for x in jax.tree.leaves((b.inputs, b.observed)))) for b in drawn}) == 1
    assert sorted(s for b in drawn for s, counts in zip(b.sites, b.counts[0], strict=True) if counts) == sorted(names)
    pool = batches_of.make_training_data(sites, observed, packed=False)
    alone = one_step._simulate_costs(wroasted(), {}, pool.inputs, pool.observed, "none")
    for b in drawn:
        together = one_step._simulate_costs(wroasted(), {}, b.inputs, b.observed, "none")
        of = [names.index(site) for site in b.sites]
        for target, cost in alone.items():
            np.testing.assert_allclose(together[target], np.asarray(cost)[of], rtol=2e-4)
    before = one_step._site_gradients._cache_size()
    hybrid().fit(uneven, epochs=1, batch_size=2, max_years=0, progress=False)
    assert one_step._site_gradients._cache_size() == before + 1


def test_weights_of_targets(cube):
    costs = {"gpp": jnp.array([0.2, jnp.nan]), "agb": jnp.array([3.0, 1.0])}
    np.testing.assert_allclose(total_cost(costs), [3.2, 1.0])
    np.testing.assert_allclose(total_cost(costs, {"agb": 0.5}), [1.7, 0.5])
    np.testing.assert_allclose(total_cost(costs, bounded=True), [0.95, 0.5])


def test_bad_options_and_cubes(cube):
    with pytest.raises(ValueError, match="unknown feature group"):
        HybridModel(wroasted(), ["igpb"])
    with pytest.raises(ValueError, match="spinup"):
        HybridModel(wroasted(), spinup="long")
    with pytest.raises(ValueError, match="nonfinite"):
        TrainingOptions(nonfinite="ignore")
    with pytest.raises(ValueError, match="gpq"):
        TrainingOptions(weights={"gpq": 1.0})
    with pytest.raises(RuntimeError, match="not been trained"):
        hybrid().predict_parameters(cube)
    with pytest.raises(ValueError, match="both the training and the validation"):
        hybrid().fit(cube, cube.isel(site=[0]))
    empty = cube.assign(T=cube["T"] * np.nan)
    with pytest.raises(ValueError, match="transpiration"):
        hybrid().fit(empty, targets=["transpiration"])


def test_observations_of_held_out_sites_do_not_reach_training(cube):
    noise = cube.copy(deep=True)
    for name in ("GPP_NT_VUT_REF", "NEE_VUT_REF", "RECO_NT_VUT_REF", "LE_F_MDS", "FAPAR", "T", "agb"):
        noise[name][dict(site=slice(4, 6))] = 1.0
    a = fit(hybrid(), cube, 2, patience=0).predict_parameters(cube)
    h = hybrid()
    h.fit(noise.isel(site=slice(0, 4)), None, epochs=2, batch_size=2, learning_rate=0.01, progress=False)
    b = hybrid()
    b.fit(cube.isel(site=slice(0, 4)), None, epochs=2, batch_size=2, learning_rate=0.01, progress=False)
    xr.testing.assert_equal(h.predict_parameters(noise), b.predict_parameters(cube))
    assert set(a.data_vars) == {*wroasted().learned, *wroasted().for_all}


def test_values_out_of_range_are_treated_as_the_forcing_of_a_model_asks(cube):
    """One day of absurd observations, one of negative radiation: refused by name, or left out of all that a model does with the cube."""
    faulty = put(put(cube, "GPP_NT_VUT_REF", -500.0, 0), "SW_IN_F", -0.5, 5)
    clean = put(put(cube, "GPP_NT_VUT_REF", np.nan, 0), "SW_IN_F", 0.0, 5)
    with pytest.raises(ValueError, match="GPP_NT_VUT_REF: -500 .* SY-001 .*out_of_range="):
        fit(hybrid(bucket), faulty, 1, targets=["gpp"])
    h = hybrid(bucket, forcing={"out_of_range": "clip"})
    with pytest.warns(UserWarning, match="GPP_NT_VUT_REF outside .*1 set missing"):
        assert same(fit(h, faulty, 1, targets=["gpp"]), fit(hybrid(bucket), clean, 1, targets=["gpp"]))
    with pytest.warns(UserWarning, match="SW_IN_F outside .*1 clipped"):
        run = h.simulate(faulty, ["gpp"])
    xr.testing.assert_equal(run.gpp, h.simulate(clean, ["gpp"]).gpp)
    with pytest.raises(ValueError, match="out_of_range="):
        evaluate(run, faulty, ["gpp"], ["daily"])
    with pytest.warns(UserWarning, match="1 set missing"):
        scores = evaluate(run, faulty, ["gpp"], ["daily"], out_of_range="missing")
    assert scores.equals(evaluate(run, clean, ["gpp"], ["daily"]))
