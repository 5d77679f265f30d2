"""Reading a program: known numbers are computed, functions within functions are entered, the rest is looked up."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jcw.trace.elementwise import SAME, function_of
from jcw.trace.expressions import Expression
from jcw.trace.known import Known, bind, compute
from jcw.trace.nodes import Node, Nodes
from jcw.trace.values import Axes, Value, agreed, channels_of

LIBRARIES = {'jax', 'jaxlib', 'flax', 'equinox', 'haiku'}
CONTROL = {
    'scan': 'a scan over blocks has one program for all of them: write the blocks one by one (for in place of scan)',
    'while': 'a loop whose length is not known cannot be written as a list of operations',
    'cond': 'which branch is taken depends on the images',
}
REFUSED = {
    'concatenate': 'concatenated channels cannot be expressed: widths that add up are not a sum over pairs of sites',
    'split': 'channels that are split cannot be searched apart',
    'gather': 'entries that are picked one by one cannot be written as an operation of a graph',
    'rev': 'reversed axes cannot be written as an operation of a graph',
    'sort': 'sorted entries cannot be written as an operation of a graph',
    'psum': 'it goes over the batch, as normalisation does in training: trace the function in evaluation mode',
    **CONTROL,
}


class Walk:
    """One reading of a program.

    Attributes:
      nodes: the operations it found.
      seen: whether the program is run, too, on the images it begins with, so that operations can be compared.
    """

    def __init__(self, rules: dict[str, Any], seen: bool) -> None:
        self.rules, self.seen, self.nodes = rules, seen, Nodes()
        self._within: list[str] = []  # modules around the program that is being read

    def run(
        self, jaxpr: Any, consts: Sequence[Any], operands: Sequence[Any], within: Any = None
    ) -> list[Any]:
        """Return the results of a program for known and unknown operands; equations without a line have that around."""
        found: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        found |= dict(zip(jaxpr.invars, operands, strict=True))

        def read(atom: Any) -> Any:
            return Known(np.asarray(atom.val)) if isinstance(atom, core.Literal) else found[atom]

        for eqn in jaxpr.eqns:
            if not eqn.outvars:  # it prints or checks something
                continue
            if within is not None and not _line(eqn):
                traceback = within.source_info.traceback
                eqn = eqn.replace(source_info=eqn.source_info.replace(traceback=traceback))
            results = self.equation(eqn, [read(atom) for atom in eqn.invars])
            found |= dict(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: Any, operands: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        inner = _inner(eqn)
        if name == 'cond' and isinstance(operands[0], Known):
            branches = eqn.params['branches']
            branch = branches[int(np.clip(operands[0].value, 0, len(branches) - 1))]
            return self.run(branch.jaxpr, [Known(c) for c in branch.consts], operands[1:], eqn)
        if inner is not None and name not in CONTROL:
            outer, self._within = self._within, self._modules(eqn)
            results = self.run(inner.jaxpr, [Known(c) for c in inner.consts], operands, eqn)
            self._within = outer
            return results
        if all(isinstance(operand, Known) for operand in operands):
            return compute(eqn, operands)
        if name == 'optimization_barrier':
            return operands
        value = self.value(eqn, operands)
        return [self.run_too(eqn, operands, value) if self.seen else value]

    def value(self, eqn: Any, operands: list[Any]) -> Value:
        name = eqn.primitive.name
        if name in self.rules:
            found: Value = self.rules[name](self, eqn, operands)
            return found
        if name in SAME:
            before, after = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
            if jnp.issubdtype(before, jnp.floating) and not jnp.issubdtype(after, jnp.floating):
                raise ValueError(
                    f'{where(eqn)}: numbers that become {after} are rounded, which no operation of a graph does'
                )
            same: Value = operands[0]
            return same
        function = function_of(name, eqn.params)
        if function is None:
            raise ValueError(f'{where(eqn)}: {REFUSED.get(name, "no operation of a graph does that")}')
        return self.elementwise(eqn, function, operands)

    def elementwise(self, eqn: Any, function: Any, operands: list[Any]) -> Value:
        values = [operand for operand in operands if isinstance(operand, Value)]
        if any(value.pads for value in values):
            raise ValueError(f'{where(eqn)}: a padded map is only read by a convolution or a pool')
        shaped = [value for value in values if value.axes]
        joined = agreed(shaped)
        if joined is None:
            raise ValueError(f'{where(eqn)}: its operands have their channels on different axes')
        axes, sizes = joined
        if eqn.primitive.name in ('add', 'add_any', 'sub', 'mul') and len(values) == 2:
            first, second = (self.leaves(value) for value in values)
            if first != second:
                combined: Value = self.rules['two'](self, eqn, values, axes, sizes)
                return combined
        args = tuple(
            operand.expression if isinstance(operand, Value) else fixed(eqn, operand, axes)
            for operand in operands
        )
        made = Expression(name=eqn.primitive.name, function=function, args=args, where=where(eqn))
        if len(self.nodes.current(made).leaves) > 1:
            raise ValueError(
                f'{where(eqn)}: it combines two results in a way that no operation of a graph does'
            )
        return Value(made, axes, sizes)

    def node(self, value: Value) -> Node:
        """Return the operation whose result a value is."""
        return self.nodes.node_of(value.expression)

    def leaves(self, value: Value) -> frozenset:
        """Return the operations that a value is made of, those that became operations by themselves looked up."""
        return self.nodes.current(value.expression).leaves

    def scope_of(self, eqn: Any) -> str:
        """Return the name of the module that an equation comes from, less the outermost; empty where there is none."""
        return '/'.join(self._modules(eqn)[1:])

    def _modules(self, eqn: Any) -> list[str]:
        own = [part for part in str(eqn.source_info.name_stack).split('/') if part.isidentifier()]
        whole = own[: len(self._within)] == self._within
        return own if whole else [*self._within, *own]

    def run_too(self, eqn: Any, operands: list[Any], value: Value) -> Value:
        """Compute what the program has here, and keep it with the expression that stands for it."""
        arrays = [operand.value if isinstance(operand, Known) else operand.seen for operand in operands]
        value = value._replace(seen=bind(eqn, arrays)[0])
        expression = value.expression
        if expression.seen is None and value.pads is None:
            expression.seen = value.seen, value.axes
            if expression.node is not None and expression.node.seen is None:
                expression.node.seen = expression.seen
        return value


def fixed(eqn: Any, known: Known, axes: Axes) -> Expression:
    """Return a known array as the numbers of each channel; its axes have the roles of those it meets."""
    value = channels_of(np.asarray(known.value), axes)
    if value is None:
        raise ValueError(
            f'{where(eqn)}: its numbers differ from place to place (a positional embedding, a random mask, '
            'how many numbers a mean pool counts at the edge); '
            'only one for each channel can be written as a normalisation'
        )
    return Expression(value=np.asarray(value, np.float64), known=known, axes=axes)


def where(eqn: Any) -> str:
    """Name an equation: its primitive, the shapes it reads and writes, the user's line, the module."""
    shapes = ', '.join(_shape(atom) for atom in eqn.invars)
    line = _line(eqn)
    at = f' at {line}' if line else ''
    return f'{eqn.primitive.name} ({shapes}) -> {_shape(eqn.outvars[0])}{at}'


def _line(eqn: Any) -> str:
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback else ():
        path = Path(frame.file_name)
        if not LIBRARIES & set(path.parts):
            return f'{path.name}:{frame.line_num}'
    return ''


def _shape(atom: Any) -> str:
    return '[' + ' '.join(str(size) for size in atom.aval.shape) + ']'


def _inner(eqn: Any) -> Any:
    """Return the program within a call, whatever kind of call it is."""
    for key in ('jaxpr', 'call_jaxpr', 'fun_jaxpr'):
        inner = eqn.params.get(key)
        if inner is not None and not isinstance(inner, core.ClosedJaxpr):
            inner = core.ClosedJaxpr(inner, ())
        if inner is not None and len(inner.jaxpr.invars) == len(eqn.invars):
            return inner
    return None
