"""Work on a Dask cluster of two processes: the same to the bit as in one, where the programs have the same shape; a worker that is killed, an interruption, and what is refused."""

import os
import signal
from types import SimpleNamespace

import pandas as pd
import pytest
import xarray as xr
from distributed import Client, KilledWorker, LocalCluster

from hybridecosys import HybridEnsemble, HybridModel, bucket, calibrate, cross_validate
from hybridecosys.cli import main
from hybridecosys.learning import calibration, together
from hybridecosys.learning.network import NetworkOptions
from hybridecosys.model.cluster import as_finished, check_seen
from hybridecosys.model.twin import synthetic_cube

FEW = dict(starts=3, steps=4, lanes=9, spinup="none", progress=False)  # parts of one lane for the derivatives, of nine for the costs
FIT = dict(epochs=2, batch_size=3, max_years=1, targets=["gpp", "evapotranspiration"], progress=False)


@pytest.fixture(scope="module")
def address():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def cube():
    return synthetic_cube(n_sites=5, years=2, spinup="none", model=bucket())


@pytest.fixture(scope="module")
def alone(cube):
    return calibrate(bucket(), cube, **FEW)


def ensemble(n=4):
    return HybridEnsemble([HybridModel(bucket(), ["igbp"], seed, spinup="none", network=NetworkOptions(hidden=4, layers=0)) for seed in range(n)])


def assert_same(fit, alone):
    xr.testing.assert_identical(fit.parameters, alone.parameters)
    pd.testing.assert_frame_equal(fit.history, alone.history)
    pd.testing.assert_frame_equal(fit.scores, alone.scores)


def test_a_calibration_is_the_same_to_the_bit(cube, alone, address):
    assert_same(calibrate(bucket(), cube, **FEW, client=address), alone)
    strategy = dict(method="cmaes", generations=3, population=5, lanes=10, spinup="none", progress=False)
    assert_same(calibrate(bucket(), cube, **strategy, client=address), calibrate(bucket(), cube, **strategy))


def test_a_calibration_interrupted_on_the_cluster_goes_on_here(cube, alone, address, tmp_path, monkeypatch):
    step, taken = calibration.descend, []

    def stopped(problem, state):
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(problem.client)
        return step(problem, state)

    monkeypatch.setattr(calibration, "descend", stopped)
    with pytest.raises(KeyboardInterrupt):
        calibrate(bucket(), cube, **FEW, run_dir=tmp_path / "run", client=address)
    assert all(client.status == "closed" for client in taken)
    monkeypatch.undo()
    assert_same(calibrate(bucket(), cube, **FEW, run_dir=tmp_path / "run", resume=True), alone)


def test_a_worker_is_killed_and_another_does_its_part(cube, alone, monkeypatch):
    step, killed = calibration.descend, []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:

        def stepping(problem, state):
            if not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                client.loop.call_later(0.05, os.kill, killed[0], signal.SIGKILL)  # while it is at work
            return step(problem, state)

        monkeypatch.setattr(calibration, "descend", stepping)
        assert_same(calibrate(bucket(), cube, **FEW, client=client), alone)
        assert killed[0] not in client.run(os.getpid).values()


def test_members_of_an_ensemble_are_the_same_in_the_same_parts(cube, address, tmp_path, monkeypatch):
    train, valid = cube.isel(site=slice(0, 4)), cube.isel(site=[4])
    here = ensemble().fit(train, valid, **FIT, together=2)
    there = ensemble().fit(train, valid, **FIT, client=address)  # two threads: two in each
    xr.testing.assert_identical(there.member_parameters(cube), here.member_parameters(cube))
    assert all(a.losses.equals(b.losses) for a, b in zip(there.members, here.members))

    learn, done = together.learn_together, []

    def stopped(*given):
        if done:
            raise KeyboardInterrupt
        done.append(learn(*given))

    monkeypatch.setattr(together, "learn_together", stopped)
    with pytest.raises(KeyboardInterrupt):
        ensemble().fit(train, valid, **FIT, run_dir=tmp_path / "run", together=2)
    monkeypatch.undo()
    resumed = ensemble().fit(train, valid, **FIT, run_dir=tmp_path / "run", resume=True, client=address)
    xr.testing.assert_identical(resumed.member_parameters(cube), here.member_parameters(cube))
    with pytest.raises(ValueError, match="together differ"):
        ensemble().fit(train, valid, **FIT, run_dir=tmp_path / "run", resume=True, together=3)


def lost():
    raise KilledWorker("a task", SimpleNamespace(address="tcp://another-machine:1"), 3)


def test_what_a_cluster_refuses(cube, address, tmp_path, capsys):
    common = dict(run_dir=tmp_path / "run", model=bucket(), progress=False)
    with pytest.raises(ValueError, match="workers must be at least 1, and 1 with a Dask client"):
        cross_validate(cube, methods=["default"], workers=2, client=address, **common)
    client = Client(address, set_as_default=False)
    client.close()
    for call in (lambda: calibrate(bucket(), cube, client=client), lambda: ensemble().fit(cube, **FIT, client=client),
                 lambda: cross_validate(cube, methods=["default"], features=["igbp"], k=2, spinup="none", client=client, **common)):
        with pytest.raises(ValueError, match="the Dask client is closed"):
            call()
    with pytest.raises(TypeError, match="distributed.Client or the address"):
        calibrate(bucket(), cube, client=8786)
    with pytest.raises(ValueError, match="together must be at least 1"):
        ensemble().fit(cube, **FIT, together=0)
    with pytest.raises(FileNotFoundError, match="does not see"), Client(address) as client:
        blind = type("Blind", (), {"run": staticmethod(lambda function, path: client.run(function, path + " of another machine"))})
        check_seen(blind, tmp_path)
    assert main(["crossval", "--client", address, "--workers", "2"]) == 2 and "give one of them" in capsys.readouterr().err
    with pytest.raises(ChildProcessError, match="ended abruptly"), Client(address) as client:
        list(as_finished(client, lost, [()]))
