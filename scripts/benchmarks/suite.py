"""What the one benchmark consists of: a row each, by which script it is measured, how large, and what is aimed at."""

import dataclasses
import difflib
from collections.abc import Sequence

from mu_jax.config import InputError

SWEEP_TARGET = 3.0
"""Ours ÷ PyTorch that sweeps of many models are to reach; all else 1."""


@dataclasses.dataclass(frozen=True)
class Script:
    """What of the flags of `benchmark.py` a script knows."""

    shared: tuple[str, ...] = ("rounds", "seconds", "torch", "torch-python")
    data: str | None = None
    """The name of its flag for the images of 32×32×3."""
    workdir: bool = False
    """Whether it keeps trained models in `--workdir`."""
    smoke: tuple[str, ...] = ("--rounds=1", "--seconds=0.02", "--torch=eager")


SCRIPTS = {
    "bench_ops.py": Script(),
    "bench_data.py": Script(),
    "bench_inference.py": Script(),
    "bench_sweep.py": Script(data="cifar"),
    "bench_sisa.py": Script(data="cifar"),
    "bench_adversarial.py": Script(data="data", workdir=True),
    "bench_unlearning.py": Script(data="data", workdir=True),
    "bench_fastclip.py": Script(),
    "bench_leaks.py": Script(),
    "bench_attacks.py": Script(
        shared=("rounds", "torch", "torch-python"), smoke=("--rounds=1", "--torch=eager")
    ),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """A case of a script, and flags besides."""

    case: str
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the benchmark."""

    name: str
    kind: str
    says: str
    """To a reader who knows none of the scripts."""
    script: str
    full: Size
    smoke: Size
    target: float = 1.0
    """What ours ÷ PyTorch is to reach."""

    def size(self, smoke: bool) -> Size:
        """The case and flags at one of the two sizes."""
        return self.smoke if smoke else self.full


_TRAINING, _INFERENCE, _MANY = "Training one model", "Inference and data", "Training many models"
_FORGETTING, _NEAR, _ATTACKS = "Forgetting", "Adversarial examples and smoothness", "Attacks"
KINDS = (_TRAINING, _MANY, _INFERENCE, _FORGETTING, _NEAR, _ATTACKS)

_ONE_MAPPING = ("--mapping=map",)
_SMALL_QUERY = ("--lowerings=patches", "--blocks=16")
_SMALL_METHODS = (
    "--examples=64",
    "--width=1",
    "--training-epochs=0.5",
    "--share=0.05",
    "--retrain-epochs=5",
    "--data=digits",
)

ROWS = (
    Row(
        "step_w16",
        _TRAINING,
        "ResNet-18 of width 16 on 32×32: a training step in a compiled chunk, batch 64",
        "bench_ops.py",
        Size("32x32_w16_chunk"),
        Size("8x8_w1_chunk_b2", _ONE_MAPPING),
    ),
    Row(
        "step_w64",
        _TRAINING,
        "ResNet-18 of width 64 on 32×32: a training step in a compiled chunk, batch 64",
        "bench_ops.py",
        Size("32x32_w64_chunk"),
        Size("8x8_w1_chunk_b2", _ONE_MAPPING),
    ),
    Row(
        "epoch_w16",
        _TRAINING,
        "width 16: a whole epoch of 2,048 8-bit images, shuffled, cropped, mirrored and normalised",
        "bench_data.py",
        Size("epoch_w16"),
        Size("epoch_w1_s8_n64"),
    ),
    Row(
        "epoch_w64",
        _TRAINING,
        "width 64: the same epoch",
        "bench_data.py",
        Size("epoch_w64"),
        Size("epoch_w1_s8_n64"),
    ),
    Row(
        "steps_k8",
        _MANY,
        "8 ResNet-18s of width 16 on 32×32: their training steps",
        "bench_ops.py",
        Size("32x32_w16_k8"),
        Size("8x8_w1_k2_b2", _ONE_MAPPING),
    ),
    Row(
        "steps_k16",
        _MANY,
        "16 ResNet-18s of width 16 on 8×8: their training steps",
        "bench_ops.py",
        Size("8x8_w16_k16"),
        Size("8x8_w1_k2_b2", _ONE_MAPPING),
        SWEEP_TARGET,
    ),
    Row(
        "sweep_digits",
        _MANY,
        "32 shadow models on digits, from fresh weights to all signals",
        "bench_sweep.py",
        Size("digits_w16_k32"),
        Size("digits_w1_k2_e0.1"),
        SWEEP_TARGET,
    ),
    Row(
        "sweep_cifar",
        _MANY,
        "8 shadow models on 2,048 images of 32×32, from fresh weights to all signals",
        "bench_sweep.py",
        Size("cifar_w16_k8"),
        Size("digits_w1_k2_e0.1"),
        SWEEP_TARGET,
    ),
    Row(
        "inference_w16",
        _INFERENCE,
        "width 16: logits of 2,048 images of 32×32 in eval mode",
        "bench_inference.py",
        Size("inference_w16"),
        Size("inference_w1_s8_n32", _SMALL_QUERY),
    ),
    Row(
        "inference_w64",
        _INFERENCE,
        "width 64: the same logits",
        "bench_inference.py",
        Size("inference_w64"),
        Size("inference_w1_s8_n32", _SMALL_QUERY),
    ),
    Row(
        "data_input",
        _INFERENCE,
        "augmented batches of 64 images of 32×32 by themselves; PyTorch's best of a DataLoader and batched indexing",
        "bench_data.py",
        Size("input"),
        Size("input_s8_n64"),
    ),
    Row(
        "sisa_fit",
        _FORGETTING,
        "SISA: 10 shards × 4 slices fitted on digits, every slice's checkpoint on disk",
        "bench_sisa.py",
        Size("fit_s10"),
        Size("fit_s2_r2_w1_e0.1", ("--deletions=2",)),
    ),
    Row(
        "sisa_deletion",
        _FORGETTING,
        "SISA: one example deleted from that ensemble; ours with hashes and a certificate, PyTorch's without",
        "bench_sisa.py",
        Size("delete_one"),
        Size("delete_one_s2_r2_w1_e0.1", ("--deletions=2",)),
    ),
    Row(
        "finetune",
        _FORGETTING,
        "fine-tuning on what stays of 2,048 images, whole, by its published settings",
        "bench_unlearning.py",
        Size("finetune"),
        Size("finetune", _SMALL_METHODS),
    ),
    Row(
        "amun",
        _FORGETTING,
        "AMUN on a tenth of 2,048 images, adversarial set included, by its published settings",
        "bench_unlearning.py",
        Size("amun"),
        Size("amun", _SMALL_METHODS),
    ),
    Row(
        "ulira_trw",
        _FORGETTING,
        "8 models forget a class of digits by TRW, as U-LiRA needs them",
        "bench_unlearning.py",
        Size("ulira_trw_k8"),
        Size("ulira_trw_k2", ("--width=1", "--share=0.1", "--training-epochs=0.5")),
    ),
    Row(
        "pgd",
        _NEAR,
        "PGD-50's search for the smallest ε of 500 images, width 16 on 32×32",
        "bench_adversarial.py",
        Size("pgd50_w16_n500"),
        Size("pgd2_w1_n16_e0.05", ("--trial=8", "--data=digits")),
    ),
    Row(
        "fastclip_step",
        _NEAR,
        "a training step with all norms tracked and clipped, width 16 on 32×32; PyTorch's is the published scheme",
        "bench_fastclip.py",
        Size("fastclip_w16"),
        Size("fastclip_w1_s8"),
    ),
    Row(
        "fastclip_measure",
        _NEAR,
        "the norms of all layers to 1e-6, with and without their batch-norm, width 64 on 32×32",
        "bench_fastclip.py",
        Size("measure_w64"),
        Size("measure_w1_s8"),
    ),
    Row(
        "pair_attack",
        _ATTACKS,
        "the attack on pairs: 1,000 small models trained, 1,900 pairs, 5 features × 4 classifiers",
        "bench_leaks.py",
        Size("retrain_k1000"),
        Size("retrain_k40_e0.5"),
    ),
    Row(
        "lira",
        _ATTACKS,
        "LiRA's scores of 60,000 examples × 18 queries by 256 models",
        "bench_attacks.py",
        Size("lira_256x60000x18"),
        Size("lira_8x50x2"),
    ),
    Row(
        "rmia",
        _ATTACKS,
        "RMIA's scores of 20,000 examples by 5,000 others and 128 models",
        "bench_attacks.py",
        Size("rmia_20000x5000"),
        Size("rmia_40x20"),
    ),
)
"""In the order in which they are measured and shown. At smoke size rows that differ in size alone are one case, which
is measured once."""


def chosen_rows(names: Sequence[str]) -> list[Row]:
    """The rows of `--cases`, in their own order: names, or `all`; without any, all. InputError for an unknown name."""
    known = [row.name for row in ROWS]
    wanted = known if not names or list(names) == ["all"] else list(names)
    for i, name in enumerate(wanted):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "change it in --cases."
            raise InputError(f"The row is {name!r}, but expected one of {', '.join(known)}; {hint}")
        if name in wanted[:i]:
            raise InputError(f"The row {name!r} stands twice in --cases; expected each once, drop one.")
    return [row for row in ROWS if row.name in wanted]
