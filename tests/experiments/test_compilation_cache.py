"""Compiled programs are kept in a private folder, whole, by machine, and give the same bits."""

import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import pytest

from mu_jax.experiments import compilation_cache
from mu_jax.experiments.compilation_cache import cache_root, machine_name, prune, use_compilation_cache

ROOT = pathlib.Path(__file__).parents[2]
X86 = (
    "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n\n"
    "processor\t: 1\n"
)
_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def fresh_jax(monkeypatch):
    """JAX without a cache, as a user's process has it; no program is compiled here."""
    before = {name: getattr(jax.config, name) for name in _SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    # What runs at the process's end must not meet folders that are gone.
    monkeypatch.setattr(compilation_cache.atexit, "register", lambda *_: None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def use(home, **environment):
    said = []
    use_compilation_cache(said.append, {"XDG_CACHE_HOME": str(home), **environment})
    return said


def folder_of(home, number=0):
    return home / "mu_jax" / "jax" / machine_name() / str(number)


def test_the_folder_is_private_and_a_processes_own(tmp_path):
    assert use(tmp_path) == []
    assert jax.config.jax_compilation_cache_dir == str(folder_of(tmp_path))
    assert jax.config.jax_persistent_cache_min_compile_time_secs == compilation_cache.MIN_COMPILE_SECONDS
    for folder in (folder_of(tmp_path), *list(folder_of(tmp_path).parents)[:2]):
        assert folder.stat().st_mode & 0o777 == 0o700
    jax.config.update("jax_compilation_cache_dir", None)
    assert use(tmp_path) == []  # another process, while this one is at work
    assert jax.config.jax_compilation_cache_dir == str(folder_of(tmp_path, 1))


@pytest.mark.parametrize("given", ["", "relative/path"])
def test_without_an_absolute_xdg_folder_it_lies_at_home(monkeypatch, given):
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_root({"XDG_CACHE_HOME": given}) == pathlib.Path("/home/someone/.cache/mu_jax/jax")


@pytest.mark.parametrize("given", ["/elsewhere", ""])
def test_jaxs_own_variable_goes_before_it(tmp_path, given):
    assert use(tmp_path, JAX_COMPILATION_CACHE_DIR=given) == []
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(tmp_path.iterdir())


def test_it_can_be_turned_off_and_its_threshold_moved(tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)
    assert use(tmp_path) == []
    assert not list(tmp_path.iterdir())
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    use(tmp_path, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="7")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 7.0


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, mode):
    root = tmp_path / "mu_jax" / "jax"
    root.mkdir(parents=True)
    root.chmod(mode)
    (said,) = use(tmp_path)
    assert f"others may write to {root}, which `chmod 700` makes private" in said
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(root.iterdir())


def test_another_users_folder_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "mu_jax" / "jax").mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    (said,) = use(tmp_path)
    assert "belongs to another user" in said
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (said,) = use(tmp_path / "file")
    assert said.startswith("Compiled programs are not kept (") and "JAX_COMPILATION_CACHE_DIR" in said
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may write anywhere
    (said,) = use(tmp_path / "read_only")
    assert "cannot be written to" in said
    assert len(said.splitlines()) == 1


def test_after_a_kill_what_was_being_written_goes(tmp_path):
    folder = folder_of(tmp_path)
    folder.mkdir(parents=True, mode=0o700)
    for path in (folder, *list(folder.parents)[:2]):
        path.chmod(0o700)
    for name, age in (("old-cache", 60), ("last-cache", 0.5), ("torn-cache", 0)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, times=(time.time() - age,) * 2)
    (folder / ".lock").write_bytes(b"")  # the process before ended by itself
    use(tmp_path)
    assert {path.name for path in folder.iterdir()} == {".lock", "old-cache", "last-cache", "torn-cache"}
    assert (folder / ".lock").read_bytes() == b"open"  # what a kill would leave
    os.rename(folder, folder.with_name("1"))  # whose lock nobody holds, once it is another file
    (folder.with_name("1") / ".lock").unlink()
    (folder.with_name("1") / ".lock").write_bytes(b"open")
    jax.config.update("jax_compilation_cache_dir", None)
    use(tmp_path)
    jax.config.update("jax_compilation_cache_dir", None)
    use(tmp_path)
    assert jax.config.jax_compilation_cache_dir == str(folder.with_name("1"))
    assert {path.name for path in folder.with_name("1").iterdir()} == {".lock", "old-cache"}


def test_the_least_recently_used_go_first(tmp_path):
    for age, name in enumerate(("newest", "a_read_one", "older", "oldest")):
        file = tmp_path / "machine" / str(age % 2) / f"{name}-cache"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 10)
        read = 0 if name == "a_read_one" else 100 * age
        os.utime(file, times=(1e9 - read, 1e9 - 100 * age))
    (tmp_path / "machine" / "0" / ".lock").write_bytes(b"open")
    prune(tmp_path, 40)
    assert len(list(tmp_path.rglob("*-cache"))) == 4
    prune(tmp_path, 25)
    assert {path.name for path in tmp_path.rglob("*-cache")} == {"newest-cache", "a_read_one-cache"}
    prune(tmp_path, 0)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


def test_a_machine_is_its_cpus_features_and_cores(monkeypatch):
    name = machine_name(X86.format(mhz=2100, flags="fpu avx512f"))
    assert machine_name(X86.format(mhz=3500, flags="avx512f fpu")) == name
    assert machine_name(X86.format(mhz=2100, flags="fpu avx2")) != name
    assert machine_name("Features\t: fp asimd\n") != machine_name("Features\t: fp asimd sve\n")
    monkeypatch.setenv("NPROC", "77")
    threads = machine_name(X86.format(mhz=2100, flags="fpu avx512f"))
    assert threads != name
    monkeypatch.setattr(compilation_cache, "usable_cores", lambda: 55)
    assert machine_name(X86.format(mhz=2100, flags="fpu avx512f")) not in (name, threads)


# A training step that is donated its state, by itself and on two devices, compiled as the trainer compiles.
PROGRAM = """
import functools, hashlib, json, sys
import jax, numpy as np
from jax.sharding import AxisType, PartitionSpec
from mu_jax.experiments.compilation_cache import use_compilation_cache
from mu_jax.training.cpu_threads import compiler_options

use_compilation_cache(lambda text: sys.exit(text))
jax.config.update("jax_num_cpu_devices", 2)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("/cache_hits")))
rng = np.random.default_rng(0)
kernel, images = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 3, 8, 16), (32, 8, 8, 8)))

def loss(kernel, images):
    outputs = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.numpy.mean(jax.nn.log_softmax(outputs.reshape(32, -1)) ** 2)

def steps(kernel, images):
    return jax.lax.fori_loop(0, 5, lambda _, kernel: kernel - 10 * jax.grad(loss)(kernel, images), kernel)

one = jax.jit(steps, donate_argnums=0)(jax.numpy.array(kernel), images)
mesh = jax.make_mesh((2,), ("device",), axis_types=(AxisType.Auto,), devices=jax.local_devices())
sharded = jax.shard_map(
    lambda kernels, images: steps(kernels[0], images)[None], mesh=mesh,
    in_specs=(PartitionSpec("device"), PartitionSpec()), out_specs=PartitionSpec("device"), check_vma=False,
)
lowered = jax.jit(sharded).lower(np.stack([kernel, 2 * kernel]), images)
many = lowered.compile(compiler_options=compiler_options(2))(np.stack([kernel, 2 * kernel]), images)
digests = [hashlib.sha256(np.asarray(array).tobytes()).hexdigest() for array in (one, many)]
print(json.dumps({"digests": digests, "hits": sum(hits)}))
"""


def in_process(program, home, *arguments, **environment):
    # Those of the shell that runs the tests would be taken for the user's own wishes.
    wishes = ("JAX_COMPILATION_CACHE", "JAX_ENABLE_COMPILATION", "JAX_PERSISTENT_CACHE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(wishes)}
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env=kept | {"XDG_CACHE_HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_read_computes_the_same_bits_on_one_device_and_on_two(tmp_path):
    runs = [
        in_process(["-W", "error", "-c", PROGRAM], tmp_path, JAX_ENABLE_COMPILATION_CACHE=enabled)
        for enabled in ("0", "1", "1")
    ]
    for done in runs:
        assert done.returncode == 0, done.stderr
        # XLA would complain here of a program that was compiled for another machine.
        assert done.stderr == ""
    compiled, cold, warm = (json.loads(done.stdout) for done in runs)
    assert compiled["digests"] == cold["digests"] == warm["digests"]
    files = list(folder_of(tmp_path).glob("*-cache"))
    assert (compiled["hits"], cold["hits"]) == (0, 0)
    assert warm["hits"] == len(files) >= 2


@pytest.mark.parametrize(
    "program",
    [
        ("-m", "mu_jax.main", "--config=configs/quickstart.py", "--config.data.source=npz:absent.npz"),
        ("-m", "mu_jax.audit", "--signals=absent.npz"),
    ],
)
def test_the_command_lines_keep_what_they_compile(tmp_path, program):
    done = in_process(program, tmp_path / "cache", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "absent.npz" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert [path.read_bytes() for path in (tmp_path / "cache").rglob(".lock")] == [b""]  # closed, not killed
