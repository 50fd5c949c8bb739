"""Train, forget and audit in a few lines of Python: your arrays, your flax network, no files.

    import flax.linen as nn
    import numpy as np
    from mu_jax.api import audit, forget, train

    class Net(nn.Module):  # yours; it ends in one logit a class
        @nn.compact
        def __call__(self, images, *, train):
            return nn.Dense(10)(nn.relu(nn.Dense(64)(images.reshape(len(images), -1))))

    original = train(Net(), x_train, y_train, epochs=30, batch_size=32, learning_rate=0.05)
    gone = np.arange(50)  # positions in x_train
    models = {method: forget(original, gone, method) for method in ("amun", "retrain")}
    print(audit({"original": original, **models}, gone, x_test, y_test))

Images are uint8[N,H,W,D] (or [N,H,W]), labels int[N]. Everything beneath is what the experiments use: the same
training, methods, attack and figures. What needs a run's folder (checkpoints that survive a kill, reports, sweeps of
shadow models over devices, SISA) has its config file.
"""

from mu_jax.api.auditing import Audit, audit
from mu_jax.api.classifier import Classifier
from mu_jax.api.forgetting import forget
from mu_jax.api.learning import train

__all__ = ["Audit", "Classifier", "audit", "forget", "train"]
