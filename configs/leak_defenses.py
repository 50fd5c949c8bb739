"""What helps against the attack on pairs of models: top-k posteriors, the label alone, temperature, DP-SGD.

    python -m mu_jax.main --config=configs/leak_defenses.py --workdir=runs/defenses --config.data.source=cifar:FOLDER

The attacker knows the defence: his shadow models have it too. See configs/unlearning_leaks.py for the attack itself;
DP-SGD needs the extra `[dp]`.

| variant | |
|---|---|
| none | CIFAR-10, the small CNN, trained long |
| `small` | what two CPU cores can do: 12,000 images, narrower, fewer models |
| `smoke` | digits, an MLP |

Expected time of the full experiment: not measured yet; it waits for an accelerator. Expected result: unknown too.

Expected time of `:smoke`: 1 minute 28 seconds on 2 idle CPU cores (JAX 0.12.0). Expected result of `:smoke` (seed 0;
AUC of the attack chosen on shadow pairs): none 72.2 [56, 84], top-3 53.2 [44, 62], top-1 77.5 [63, 88], label only 51.6
[35, 68], temperature 2, 4, 16: 74.6, 62.3, 65.4, DP-SGD (ε = 13.9 at δ = 1e-5) 58.4 [43, 72] at 82.2% test accuracy
instead of 91.0%.
"""

import importlib.util
import pathlib

from mu_jax.config import unknown_variant

_SOURCE = pathlib.Path(__file__).with_name("unlearning_leaks.py")
_VARIANTS = ("small", "smoke")
_RELEASED = (
    "none",
    "top_k:k=3",
    "top_k:k=1",
    "label_only",
    "temperature:t=2.0",
    "temperature:t=4.0",
    "temperature:t=16.0",
)


def get_config(variant: str = ""):
    if variant not in ("", *_VARIANTS):
        unknown_variant(variant, _VARIANTS)
    spec = importlib.util.spec_from_file_location("unlearning_leaks_config", _SOURCE)
    leaks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(leaks)
    config = leaks.get_config(variant)
    config.leaks.targets = {
        "": ("cnn:train.epochs=60.0,train.weight_decay=0.0",),
        "small": ("cnn:train.epochs=40.0,train.weight_decay=0.0",),
        "smoke": ("mlp:train.epochs=40.0,train.weight_decay=0.0",),
    }[variant]
    config.leaks.shares = ("nothing",)
    config.leaks.scenarios = ("single",)
    noise = (1.2,) if variant == "smoke" else (0.6, 1.2, 2.4)
    config.leaks.defenses = (
        *_RELEASED,
        *(f"dp_sgd:noise_multiplier={sigma}" for sigma in noise),
    )
    return config
