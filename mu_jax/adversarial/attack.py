"""The compiled part of every attack: gradient steps on a batch of slots, each at its own ε and step, until it flips.

One program per norm serves PGD, FGSM and the search over ε, targeted or not: all that tells them apart is data.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float32, Int, Int32

from mu_jax.adversarial.constant import with_constant
from mu_jax.adversarial.pixels import LEVELS, PixelModel
from mu_jax.adversarial.sharing import AXIS, Shares, all_devices, share_out
from mu_jax.training.cpu_threads import compiler_options

PyTree = Any

WORKING, FLIPPED, KEPT, BROKEN = range(4)
"""How it stands with an example: at work; flipped; gave up at the largest ε; its logits are not finite."""

NORMS = ("l2", "linf")


class Slots(flax.struct.PyTreeNode):
    """B examples under attack, which never meet."""

    origin: PyTree
    """float32[B,H,W,D] in [0, 1]"""
    images: PyTree
    """float32[B,H,W,D] in [0, 1], the current iterate"""
    labels: PyTree
    """int32[B], true classes, or the targets of a targeted attack"""
    epsilon: PyTree
    """float32[B], radius of the ball about the origin"""
    step: PyTree
    """int32[B], steps taken in the round of this ε"""
    total: PyTree
    """int32[B], steps taken in all rounds"""
    status: PyTree
    """int32[B]"""
    predicted: PyTree
    """int32[B], the class of the last iterate that was tested"""


class Settings(flax.struct.PyTreeNode):
    """What an attack does, as scalars on the device, so that no change of them compiles anew."""

    step_ratio: PyTree
    """float32[], length of a step over ε"""
    steps: PyTree
    """int32[], of one round"""
    max_epsilon: PyTree
    """float32[]; after a round without success ε doubles, unless it would be larger than this"""
    targeted: PyTree
    """bool[]; reach the label, where otherwise it is left"""
    restart: PyTree
    """bool[]; a round begins at the origin, where otherwise it goes on from the last iterate"""
    quantize: PyTree
    """bool[]; the model sees the nearest 8-bit image, and the iterate stays in float32"""


def log_odds(logits: Float32[Array, "B C"], labels: Int[Array | np.ndarray, "B"]) -> Float32[Array, "B"]:
    """φ = z_y − log Σ_{j≠y} exp z_j, the log of p_y / (1 − p_y)."""
    is_label = jnp.arange(logits.shape[-1]) == labels[:, None]
    others = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    return jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1) - others


def direction(gradient: Float32[Array, "B H W D"], norm: str) -> Float32[Array, "B H W D"]:
    """The steepest step of length one: g/‖g‖₂ or sign(g); zero where the gradient is."""
    if norm == "linf":
        return jnp.sign(gradient)
    # Scaled first: squares of entries below 1e-19 are zero in float32.
    largest = jnp.max(jnp.abs(gradient), axis=(1, 2, 3), keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1.0)
    length = _l2(scaled)
    return scaled / jnp.where(length > 0, length, 1.0)


def project(
    delta: Float32[Array, "B H W D"], epsilon: Float32[Array, "B"], norm: str
) -> Float32[Array, "B H W D"]:
    """The nearest point of the ball of radius ε about zero."""
    radius = epsilon[:, None, None, None]
    if norm == "linf":
        return jnp.clip(delta, -radius, radius)
    return delta * jnp.minimum(1.0, radius / jnp.maximum(_l2(delta), 1e-30))


def odds_and_gradient(
    attacked: PixelModel,
    variables: PyTree,
    pixels: Float32[Array | np.ndarray, "B H W D"],
    labels: Int[Array | np.ndarray, "B"],
) -> tuple[Float32[Array, "B C"], Float32[Array, "B H W D"]]:
    """The logits of B images, and the gradient of each one's φ by its pixels."""

    def objective(pixels: Array) -> tuple[Array, Array]:
        logits = attacked.logits(variables, pixels)
        return jnp.sum(log_odds(logits, labels)), logits

    (_, logits), gradient = jax.value_and_grad(objective, has_aux=True)(pixels)
    return logits, gradient


def attack_step(
    attacked: PixelModel, norm: str, variables: PyTree, slots: Slots, settings: Settings
) -> Slots:
    """Test every iterate; those at work that have not flipped take a step: x ← clamp(Π_ε(x + ratio·ε·d − x₀) + x₀).

    The test comes before the step, as in AMUN's code, so an example keeps its first iterate that flips, and one that
    is misclassified from the start keeps δ = 0. d is the direction in which the cross-entropy grows (targeted: in which
    that of the target falls). It is taken from φ: ∇CE = −(1 − p_y)∇φ, so the two have one direction, but that of
    cross-entropy vanishes in float32 where the model is sure.
    """
    return step_by(functools.partial(odds_and_gradient, attacked, variables), norm, slots, settings)


def step_by(ask: Callable[..., tuple[Array, Array]], norm: str, slots: Slots, settings: Settings) -> Slots:
    """`attack_step` of the model that `ask(pixels, labels) -> (logits, gradient)` asks."""
    grid = jnp.round(slots.images * LEVELS) / LEVELS
    logits, gradient = ask(jnp.where(settings.quantize, grid, slots.images), slots.labels)
    predicted = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    hit = (predicted == slots.labels) == settings.targeted
    tested = jnp.where(hit, FLIPPED, WORKING)
    tested = jnp.where(jnp.all(jnp.isfinite(logits), axis=-1), tested, BROKEN)
    was_working = slots.status == WORKING
    status = jnp.where(was_working, tested, slots.status)

    round_over = (status == WORKING) & (slots.step >= settings.steps)
    doubled = 2 * slots.epsilon
    # The factor: the cap may be a doubled ε that was rounded on its way here.
    status = jnp.where(round_over & (doubled > settings.max_epsilon * (1 + 1e-6)), KEPT, status)
    moving = status == WORKING
    again = moving & round_over
    epsilon = jnp.where(again, doubled, slots.epsilon)
    back = again & settings.restart
    sign = jnp.where(settings.targeted, 1.0, -1.0)
    length = (settings.step_ratio * epsilon)[:, None, None, None]
    delta = slots.images + length * direction(sign * gradient, norm) - slots.origin
    moved = jnp.clip(slots.origin + project(delta, epsilon, norm), 0.0, 1.0)
    moved = jnp.where(_by_example(back), slots.origin, moved)
    taken = (moving & ~back).astype(jnp.int32)
    return slots.replace(
        images=jnp.where(_by_example(moving), moved, slots.images),
        epsilon=epsilon,
        step=jnp.where(again, 0, slots.step) + taken,
        total=slots.total + taken,
        status=status.astype(jnp.int32),
        predicted=jnp.where(was_working, predicted, slots.predicted),
    )


# The cache is what lets attacks on one model share a program: a jitted function made anew would compile anew.
@functools.cache
def make_advance(attacked: PixelModel, norm: str) -> Callable[..., Slots]:
    """`advance(variables, slots, settings, count, least) -> slots`, compiled, over all of this process's devices.

    Each device takes at most `count` steps (int32[]), and no further once fewer than its part of `least` slots
    (int32[], 1 or more) are at work on it. Slots of a number that `share_out` gives need no filling up.
    """
    mesh = all_devices()

    def advance(
        variables: PyTree,
        slots: Slots,
        settings: Settings,
        count: Int32[Array | np.ndarray, ""] | np.int32,
        least: Int32[Array | np.ndarray, ""] | np.int32,
    ) -> Slots:
        number = slots.labels.shape[0]
        shares = share_out(number)

        def on_device(
            variables: PyTree, slots: Slots, settings: Settings, count: Array, least: Array
        ) -> Slots:
            return _advance_blocks(attacked, norm, shares, variables, slots, settings, count, least)

        split, whole = PartitionSpec(AXIS), PartitionSpec()
        # As in training: the check would ask for a cast of every constant that enters a loop.
        advanced = jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(whole, split, whole, whole, whole),
            out_specs=split,
            check_vma=False,
        )(variables, _filled_up(slots, shares.slots - number), settings, count, least)
        return jax.tree.map(lambda leaf: leaf[:number], advanced)

    return jax.jit(advance, compiler_options=compiler_options(mesh.size) or None)


def _advance_blocks(
    attacked: PixelModel,
    norm: str,
    shares: Shares,
    variables: PyTree,
    slots: Slots,
    settings: Settings,
    count: Array,
    least: Array,
) -> Slots:
    """One device's part of `advance`: in each step its examples at work, packed into as few blocks as hold them."""
    images, labels = (leaf[: shares.block] for leaf in (slots.images, slots.labels))
    ask = with_constant(functools.partial(odds_and_gradient, attacked), variables, images, labels)
    # Devices do not speak with each other: each goes by its own part.
    least = (least + shares.devices - 1) // shares.devices

    def goes_on(carry: tuple) -> Array:
        i, slots = carry
        return (i < count) & (jnp.sum(slots.status == WORKING) >= least)

    def one(carry: tuple) -> tuple:
        i, slots = carry
        working = slots.status == WORKING
        order = jnp.argsort(~working, stable=True).astype(jnp.int32)

        def one_block(j: Array, slots: Slots) -> Slots:
            rows = lax.dynamic_slice_in_dim(order, j * shares.block, shares.block)
            block = jax.tree.map(lambda leaf: leaf[rows], slots)
            stepped = step_by(ask, norm, block, settings)
            return jax.tree.map(lambda leaf, new: leaf.at[rows].set(new, unique_indices=True), slots, stepped)

        blocks = -(-jnp.sum(working) // shares.block)
        return i + 1, lax.fori_loop(0, blocks, one_block, slots)

    return lax.while_loop(goes_on, one, (jnp.int32(0), slots))[1]


def _filled_up(slots: Slots, by: int) -> Slots:
    """So many more slots, in which nothing is at work."""

    def longer(leaf: Array | np.ndarray) -> Array:
        return jnp.pad(leaf, [(0, by)] + [(0, 0)] * (leaf.ndim - 1))

    if by == 0:
        return slots
    longer_slots = jax.tree.map(longer, slots)
    status = jnp.where(
        jnp.arange(longer_slots.status.shape[0]) < slots.status.shape[0], longer_slots.status, KEPT
    )
    return longer_slots.replace(status=status)


def _l2(values: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(values), axis=(1, 2, 3), keepdims=True))


def _by_example(flags: Array) -> Array:
    return flags[:, None, None, None]
