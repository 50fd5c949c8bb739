import jax
import pytest

from mu_jax.config import InputError
from mu_jax.training.placement import Placement, _free_host_bytes, fit_to_memory, free_bytes

MODEL = 100  # bytes of each model, and of the program's own


class FakeTrainer:
    """Needs memory as a `map` does: for the program, and for each model."""

    def __init__(self, placement):
        self.placement = placement

    def bytes_per_device(self):
        return MODEL * (1 + self.placement.models_per_device)


@pytest.mark.parametrize(
    "budget, expected",
    [(10**6, (2, 8)), (900, (2, 8)), (899, (2, 4)), (300, (2, 2)), (200, (2, 1))],
)
def test_groups_shrink_until_they_fit(budget, expected):
    trainer = fit_to_memory(FakeTrainer, Placement("map", 2, 8), lambda placement: budget)
    assert (trainer.placement.devices, trainer.placement.models_per_device) == expected
    assert trainer.placement.mapping == "map"


def test_virtual_devices_go_when_one_model_each_is_too_much():
    trainer = fit_to_memory(FakeTrainer, Placement("map", 2, 2), lambda placement: 300 // placement.devices)
    assert (trainer.placement.devices, trainer.placement.models_per_device) == (1, 1)


def test_too_little_memory_for_one_model_is_one_sentence():
    with pytest.raises(
        InputError, match=r"one model takes 0\.2 KiB of memory, but there are 0\.2 KiB; use a smaller"
    ):
        fit_to_memory(FakeTrainer, Placement("map", 2, 8), lambda placement: 199)


def test_a_backend_that_does_not_tell_gets_what_was_asked_for():
    assert fit_to_memory(FakeTrainer, Placement("map", 1, 8), lambda p: None).placement.models_per_device == 8


def test_virtual_devices_share_the_machines_memory():
    one, two = free_bytes(Placement("map", 1, 1)), free_bytes(Placement("map", 2, 1))
    assert 0 < two < one
    assert one < 2**50


def test_a_control_groups_limit_counts(tmp_path):
    files = {
        "proc/meminfo": "MemTotal: 1 kB\nMemAvailable:  2048 kB\n",
        "sys/fs/cgroup/memory.max": "1500000\n",
        "sys/fs/cgroup/memory.current": "500000\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert _free_host_bytes(tmp_path) == 1_000_000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert _free_host_bytes(tmp_path) == 2048 * 1024


def test_idle_file_pages_of_a_control_group_count_as_free(tmp_path):
    group = tmp_path / "sys/fs/cgroup/jobs/mine"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 2048 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/jobs/mine\n")
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.current").write_text("900000\n")
    assert _free_host_bytes(tmp_path) == 100_000
    (group / "memory.stat").write_text("anon 100000\ninactive_file 500000\n")
    assert _free_host_bytes(tmp_path) == 600_000
    # A limit further up counts too.
    (group.parent / "memory.max").write_text("300000\n")
    (group.parent / "memory.current").write_text("50000\n")
    assert _free_host_bytes(tmp_path) == 250_000


def test_control_groups_of_the_first_version(tmp_path):
    group = tmp_path / "sys/fs/cgroup/memory/slurm/job_1"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 2048 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/slurm/job_1\n3:cpu:/\n")
    (group / "memory.limit_in_bytes").write_text("800000\n")
    (group / "memory.usage_in_bytes").write_text("700000\n")
    (group / "memory.stat").write_text("total_inactive_file 200000\n")
    assert _free_host_bytes(tmp_path) == 300_000
    # In a container the path is the host's, and the group's own files lie at the top.
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/docker/abc\n")
    top = tmp_path / "sys/fs/cgroup/memory"
    (top / "memory.limit_in_bytes").write_text("500000\n")
    (top / "memory.usage_in_bytes").write_text("100000\n")
    assert _free_host_bytes(tmp_path) == 400_000


def test_memory_that_runs_out_while_compiling_makes_smaller_groups():
    def make(placement):
        if placement.models_per_device > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return FakeTrainer(placement)

    trainer = fit_to_memory(make, Placement("map", 1, 8), lambda placement: None)
    assert trainer.placement.models_per_device == 2

    def never(placement):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    with pytest.raises(InputError, match="Training one model ran out of memory; use a smaller"):
        fit_to_memory(never, Placement("map", 1, 2), lambda placement: 10**6)

    def broken(placement):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        fit_to_memory(broken, Placement("map", 1, 2), lambda placement: 10**6)
