"""Compiled programs that are kept in files: found again, equal to the bit, and only where they are the same."""

import os
import subprocess
import sys
import weakref

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from hybridecosys import bucket, keep_programs, prepare_forcing, wroasted
from hybridecosys.data.weather import synthetic_weather
from hybridecosys.model import programs, timeloop
from hybridecosys.model.inputs import make_inputs
from hybridecosys.model.programs import Program, fingerprint, program_folder
from hybridecosys.model.simulate import run

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SCALE = 2.0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of programs; JAX's own cache is left out, since what it has read cannot be written again."""
    jaxs = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    monkeypatch.setenv("HYBRIDECOSYS_PROGRAMS", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", jaxs)
    compilation_cache.reset_cache()


def files(folder) -> list:
    return sorted(folder.glob("*/*.program"))


@pytest.fixture
def lowered():
    """What JAX lowers from now on; a program that is not traced is not lowered."""
    events = []
    listen = lambda event, *_, **__: events.append(event) if "jaxpr_to_mlir_module" in event else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def same(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b))


@pytest.fixture(scope="module")
def month():
    """Arguments of `run`: one site, three days, no spin-up."""
    weather = prepare_forcing(synthetic_weather(n_sites=1, years=1)).isel(time=slice(0, 3))
    return wroasted("smooth"), {n: np.float32(p.default) for n, p in wroasted().parameter_table.items()}, make_inputs(weather, spinup=False, block=3), "none", ("gpp", "leaf")


def slope(model, parameters, inputs, spinup, outputs):
    """A gradient through the days."""
    return jax.grad(lambda p: sum(x.sum() for x in run(model, p, inputs, spinup, outputs)[1].values()))(parameters)


@pytest.mark.parametrize("function", [run, slope])
def test_a_program_from_a_file_gives_the_same_bits_and_traces_nothing(folder, month, lowered, monkeypatch, function):
    static = ("model", "spinup", "outputs")
    expected = Program(function, static)(*month)
    assert len(files(folder)) == 1
    assert lowered
    lowered.clear()
    assert same(Program(function, static)(*month), expected) and not lowered and len(files(folder)) == 1
    if function is run:
        assert same(jax.jit(run, static_argnames=static)(*month), expected) and lowered
        monkeypatch.setattr(timeloop, "GRADIENT_BOUND", 1e9)  # a constant that is another one: another program
        Program(run, static)(*month)
        assert len(files(folder)) == 2


def doubled(x, by):
    return x * by


def test_what_jax_found_in_its_own_cache_is_not_written_again(folder, monkeypatch):
    """Such a program has lost its functions: written and read once more, it could not be run. The same where JAX has it in memory since it found it."""
    x = np.arange(3.0, dtype="float32")
    before = {name: getattr(jax.config, name) for name in ("jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_min_entry_size_bytes")}
    jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))
    for name in before:
        jax.config.update(name, 0)
    compilation_cache.reset_cache()
    try:
        assert same(Program(doubled, ())(x, 2.0), x * 2) and len(files(folder)) == 1  # compiled here
        files(folder)[0].unlink()
        jax.clear_caches()
        assert same(jax.jit(doubled)(x, 2.0), x * 2)  # found by JAX
        for _ in range(2):
            assert same(Program(doubled, ())(x, 2.0), x * 2)
        assert not files(folder)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_a_damaged_file_and_a_folder_that_cannot_be_written_to(folder):
    model = bucket()
    weather = prepare_forcing(synthetic_weather(n_sites=1, years=1)).isel(time=slice(0, 3))
    month = model, {n: np.float32(p.default) for n, p in model.parameter_table.items()}, make_inputs(weather, spinup=False, block=3), "none", ("gpp",)
    new = lambda: Program(run, ("model", "spinup", "outputs"))
    expected = new()(*month)
    (file,) = files(folder)
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(content)
        assert same(new()(*month), expected) and len(file.read_bytes()) > 1000
    assert oct(file.parent.stat().st_mode)[-3:] == "700"
    blocked = folder / "blocked"
    blocked.write_text("a file where a folder should be")
    keep_programs(blocked)
    with pytest.warns(UserWarning, match="cannot be kept.*HYBRIDECOSYS_PROGRAMS=no"):
        assert same(new()(*month), expected)
    keep_programs(False)
    assert program_folder() is None and os.environ["HYBRIDECOSYS_PROGRAMS"] == "no"
    assert same(new()(*month), expected)


def test_functions_of_a_user_are_told_apart_by_what_they_compute(monkeypatch):
    def helped(vpd_day):
        return helper(vpd_day) * SCALE

    def helper(x):
        return 1 / (1 + x)

    replaced = lambda f: fingerprint(wroasted().replace(gpp_vpd=f))
    first = replaced(helped)
    assert first == replaced(helped) != fingerprint(wroasted())
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    second = replaced(helped)
    helper = lambda x: 1 / (2 + x)  # noqa: E731, F811
    assert len({first, second, replaced(helped)}) == 3
    unknown = object()
    with pytest.raises(TypeError, match="no fingerprint"):
        replaced(lambda vpd_day: unknown)


def test_another_process_finds_the_same_fingerprint(folder):
    """Whatever a process has computed meanwhile, and in whatever order a set of strings comes there."""
    tell = ("from hybridecosys import wroasted; import hybridecosys.learning.training\nfrom hybridecosys.model.programs import *\n"
            "print(package_fingerprint('hybridecosys.learning.training'), fingerprint(wroasted()))")
    work = ("import hybridecosys as he; from hybridecosys.data.weather import synthetic_weather\n"
            "he.simulate(he.wroasted(), he.prepare_forcing(synthetic_weather(n_sites=1, years=1)).isel(time=slice(0, 3)), spinup='none', outputs=['gpp'])\n")
    said = [subprocess.check_output([sys.executable, "-c", code], text=True, env={**os.environ, "PYTHONHASHSEED": seed}).split() for code, seed in ((tell, "1"), (work + tell, "2"))]
    assert said[0] == said[1] and len(said[0]) == 2


def test_what_a_process_has_noted_is_not_part_of_the_package(monkeypatch):
    """Another thread may note a function meanwhile."""
    class Busy(weakref.WeakKeyDictionary):
        def items(self):
            raise RuntimeError("dictionary changed size during iteration")

    before = programs.package_fingerprint("hybridecosys.model.programs")
    monkeypatch.setattr(programs, "_OF_FUNCTIONS", Busy())
    assert programs.package_fingerprint("hybridecosys.model.programs") == before
