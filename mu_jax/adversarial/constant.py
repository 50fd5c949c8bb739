"""A function of weights and images, of which all that the weights alone decide is computed once, outside of a loop.

XLA itself moves out of a loop only what makes no array larger, and the kernels' transforms of Winograd's convolutions
make them up to four times larger. Found by following the function's operations (its jaxpr), it holds for any model.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import JaxprEqn, Literal

PyTree = Any

GROWTH = 4
"""An operation that gives more numbers than so many times those it takes (a broadcast) stays in the loop: to read its
result from memory takes longer than to make it. Winograd's transform of a kernel is the one that makes most of few."""


def with_constant(function: Callable[..., PyTree], constant: PyTree, *like: PyTree) -> Callable[..., PyTree]:
    """`f(*arguments)` = `function(constant, *arguments)`, with what follows from `constant` alone computed here.

    `like` are arrays of the shapes and dtypes of the arguments. The result is `function`'s, to the rounding of sums
    that the compiler may order anew.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (constant, *like))
    closed, result = jax.make_jaxpr(function, return_shape=True)(*shapes)
    jaxpr = closed.jaxpr
    given = jax.tree.leaves(constant)
    known = dict(zip(jaxpr.invars[: len(given)], given, strict=True))
    consts = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    left = []
    for equation in jaxpr.eqns:
        names = [name for name in equation.invars if not isinstance(name, Literal)]
        # Constants of the program itself are the compiler's to place.
        if any(name in known for name in names) and all(name in known or name in consts for name in names):
            grown = sum(name.aval.size for name in equation.outvars)
            if grown <= GROWTH * sum(name.aval.size for name in names):
                _carry_out(equation, known | consts, known)
                continue
        left.append(equation)

    def rest(*arguments: PyTree) -> PyTree:
        values = known | consts
        values.update(zip(jaxpr.invars[len(given) :], jax.tree.leaves(arguments), strict=True))
        for equation in left:
            _carry_out(equation, values, values)
        return jax.tree.unflatten(jax.tree.structure(result), _read(jaxpr.outvars, values))

    return rest


def _read(names: Sequence[Any], values: dict[Any, Any]) -> list[Any]:
    return [name.val if isinstance(name, Literal) else values[name] for name in names]


def _carry_out(equation: JaxprEqn, values: dict[Any, Any], into: dict[Any, Any]) -> None:
    """One operation, on values by their names in the jaxpr."""
    primitive = equation.primitive
    with equation.ctx.manager:
        result = primitive.bind(*_read(equation.invars, values), **primitive.get_bind_params(equation.params))
    into.update(zip(equation.outvars, result if primitive.multiple_results else [result], strict=True))
