"""Programs in a line and their evaluation, against the functions that they were traced from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, same

from jaxcnn.ops.jaxpr import Line, called, constants, evaluate, every, inner, runs

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
TABLE = np.arange(3, dtype=np.float32)


def twice(x):
    return jax.lax.scan(lambda y, _: (jnp.sin(y) * 2, None), x, length=2)[0]


def choice(x):
    return jax.lax.cond(x.sum() > 5, jnp.cos, jnp.sin, x)


def rounds(x):
    return jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1])), (0, x))[1]


@jax.custom_jvp
def own(x):
    return jnp.sin(x)


own.defjvp(lambda primals, tangents: (jnp.sin(*primals), jnp.cos(*primals) * tangents[0]))
shifted = jax.jit(lambda x, by: (jnp.sin(x) + by, 1.0))

FUNCTIONS = {
    "operations": lambda x: jnp.sin(x) * 2 + 1,
    "jit": jax.jit(lambda x: jax.jit(jnp.sin)(x) + TABLE),
    "a literal goes in and comes out": lambda x: jnp.stack([a * jnp.ones(()) for a in shifted(x[0, 0], 3.0)]),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))),
    "custom_jvp": own,
    "scan": twice,
    "cond": choice,
    "while": rounds,
    "the input": lambda x: x,
    "one function called twice": lambda x: shifted(x, 1.0)[0] + shifted(x, 2.0)[0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("opened", [True, False])
def test_a_program_in_a_line_gives_what_the_function_gives(name, opened):
    program = jax.make_jaxpr(FUNCTIONS[name])(X)
    line = Line.of(program, lambda eqn: opened and called(eqn) is not None)
    known = line.run(line.known([X]), line.steps, lambda step, operands: None)
    (result,) = line.read(line.results, line.outputs, known)
    close(result, FUNCTIONS[name](X), 1e-6)  # compiled together or one by one: the last digit
    if opened:
        assert not any(called(step.eqn) for step in line.steps)
    (result,) = evaluate(program.jaxpr, [*program.consts, X])
    close(result, FUNCTIONS[name](X), 1e-6)


def test_a_rule_replaces_equations():
    program = jax.make_jaxpr(lambda x: jnp.sin(x) + jnp.exp(x))(X)

    def rule(eqn, read):
        return [jnp.cos(read(eqn.invars[0]))] if eqn.primitive.name == "sin" else None

    close(evaluate(program.jaxpr, [X], rule)[0], np.cos(X) + np.exp(X))
    line = Line.of(program, lambda eqn: False)
    known = line.run(
        line.known([X]), line.steps, lambda s, given: [0 * given[0]] if s.eqn.primitive.name == "exp" else None
    )
    close(line.read(line.results, line.outputs, known)[0], np.sin(X))


def test_a_line_goes_on_from_other_values():
    line = Line.of(jax.make_jaxpr(lambda x: jnp.sin(x) + x)(X), lambda eqn: False)
    assert [step.eqn.primitive.name for step in line.steps] == ["sin", "add"]
    known = line.run({**line.known([X]), line.steps[0].outputs[0]: X * 0}, line.steps[1:], lambda step, operands: None)
    same(line.read(line.results, line.outputs, known)[0], X)


def test_what_is_inside():
    def only(function, *args):
        (eqn,) = jax.make_jaxpr(function)(*args).eqns
        return eqn

    scan = only(twice, X)
    assert [[e.primitive.name for e in body.eqns] for body in inner(scan)] == [["sin", "mul"]]
    assert (runs(scan), called(scan)) == (2, None)
    jit = only(jax.jit(jnp.cos), X)
    assert [e.primitive.name for e in called(jit).eqns] == ["cos"]
    assert runs(jit) == 1
    names = [e.primitive.name for e in every(jax.make_jaxpr(lambda x: twice(choice(x)))(X).jaxpr)]
    assert names[-3:] == ["scan", "sin", "mul"]
    assert [n for n in names if n in ("cond", "sin", "cos")] == ["cond", "sin", "cos", "sin"]


def test_a_loop_that_is_opened_has_borders_and_says_how_often_it_runs():
    line = Line.of(jax.make_jaxpr(lambda x: jax.checkpoint(twice)(x))(X), lambda eqn: any(inner(eqn)))
    assert [None if s.eqn is None else s.eqn.primitive.name for s in line.steps] == [None, "sin", "mul", None]
    assert [(s.times, s.again) for s in line.steps if s.eqn is not None] == [(2, True)] * 2
    assert line.kept == line.inputs
    border_in, sin, mul, border_out = line.steps
    assert sin.inputs == border_in.outputs
    assert border_in.inputs == tuple(line.inputs)
    assert border_out.inputs == mul.outputs
    assert list(border_out.outputs) == line.outputs


@pytest.mark.parametrize(
    "fills",
    [
        lambda x: [jnp.zeros((2, 3)), jnp.ones(4, jnp.bfloat16), jnp.full((), 7, jnp.int32)],
        lambda x: jax.tree.map(jnp.copy, [jnp.zeros_like(x), jnp.zeros(())]),
        lambda x: (jnp.sin(x), jnp.full((2, 2), True))[1:],  # what is computed for nothing
        lambda x: [],
    ],
)
def test_a_program_that_only_fills_arrays_is_known_without_it(fills):
    found, expected = constants(jax.make_jaxpr(fills)(X)), jax.jit(fills)(X)
    assert [(a.shape, a.dtype) for a in found] == [(a.shape, a.dtype) for a in expected]
    same(found, list(expected))


@pytest.mark.parametrize(
    "computes",
    [
        jnp.sin,
        lambda x: x,
        lambda x: [jnp.zeros(2), x.sum()],
        lambda x: jnp.full(2, 0.5),  # weak types, which an array cannot have
        lambda x: jnp.zeros(2) + TABLE[:2],
        lambda x: (jax.debug.print("seen"), jnp.zeros(2))[1:],
    ],
)
def test_a_program_that_computes_is_not_one_that_fills(computes):
    assert constants(jax.make_jaxpr(computes)(X)) is None
