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
        InputError, match=r"one model takes 0\.00 GiB of memory, but there are 0\.00; use a smaller"
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
