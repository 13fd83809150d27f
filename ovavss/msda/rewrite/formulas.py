"""Sizes as formulas of a model's free sizes: sympy expressions, and what is shown of them for all free sizes."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import sympy

Size = Any  # a sympy expression
Dims = tuple[Size, ...]

# What symbols of rounded quotients stand for: numerator and denominator.
_FLOORS: dict[Size, tuple[Size, int]] = {}


def free(name: str) -> Size:
    """A size of 1 or more of which nothing else is known."""
    return sympy.Symbol(name, integer=True, positive=True)


def same(a: Size, b: Size) -> bool:
    """Whether two sizes are equal whatever the free sizes are."""
    return a == b or sympy.expand(a - b) == 0


@cache
def is_at_least(size: Size, least: int) -> bool:
    """Whether a size is shown to be no smaller whatever the free sizes are."""
    if any(not symbol.is_nonnegative for symbol in size.free_symbols):
        return False
    smallest = {s: int(bool(s.is_positive)) + sympy.Symbol(s.name, nonnegative=True) for s in size.free_symbols}
    return bool((sympy.expand(size.subs(smallest, simultaneous=True)) - least).is_nonnegative)


def product(sizes: Sequence[Size]) -> Size:
    """Multiplies sizes, which may be symbols."""
    return sympy.Mul(*sizes)


def quotient(a: Size, b: Size) -> Size | None:
    """Divides a by b, where that is a whole number whatever the free sizes are."""
    if b == 0:
        return None
    if a.is_Integer and b.is_Integer:
        return a // b if a % b == 0 else None
    numerator, denominator = sympy.fraction(sympy.together(sympy.cancel(a / b)))
    return sympy.expand(numerator) if denominator == 1 else None


def rounded_down(a: Size, b: Size) -> Size | None:
    """floor(a / b) for a positive number `b`, as a formula that is equal for equal quotients; None if not known."""
    if not b.is_Integer or b < 1 or any(not symbol.is_nonnegative for symbol in a.free_symbols):
        return None
    divisor = int(b)
    # Multiples of the divisor leave the fraction.
    whole, rest = sympy.Integer(0), sympy.Integer(0)
    for term in sympy.Add.make_args(sympy.expand(a)):
        coefficient, symbols = term.as_coeff_Mul()
        whole, rest = whole + coefficient // divisor * symbols, rest + coefficient % divisor * symbols
    terms = sympy.Add.make_args(rest)
    if rest.is_Integer:
        return sympy.expand(whole)
    if inner := next((term for term in terms if term in _FLOORS), None):
        # (k + n // d) // e is (k * d + n) // (d * e).
        numerator, inner_divisor = _FLOORS[inner]
        others = sympy.expand((rest - inner) * inner_divisor + numerator)
        return sympy.expand(whole + rounded_down(others, sympy.Integer(divisor * inner_divisor)))
    # A remainder below what all symbols' coefficients share changes nothing.
    constant = int(rest.as_coeff_Add()[0])
    common = math.gcd(divisor, *(int(term.as_coeff_Mul()[0]) for term in terms if not term.is_Integer))
    rest, divisor = sympy.expand((rest - constant) / common) + constant // common, divisor // common
    if divisor == 1:
        return sympy.expand(whole + rest)
    return sympy.expand(whole + _floor(rest, divisor, positive=is_at_least(rest, divisor)))


def _floor(numerator: Size, divisor: int, positive: bool) -> Size:
    symbol = sympy.Symbol(f"(({numerator})//{divisor})", integer=True, nonnegative=True, positive=positive or None)
    _FLOORS[symbol] = numerator, divisor
    return symbol


def symbols_below(size: Size) -> set[Size]:
    """The symbols of a formula, those that rounded quotients are made of in place of the quotients."""
    below = set()
    for symbol in size.free_symbols:
        below |= symbols_below(_FLOORS[symbol][0]) if symbol in _FLOORS else {symbol}
    return below


def as_size(size: Size, equal: dict[Size, Size]) -> Size | None:
    """A formula as the size of a tensor, which is 1 or more; None where that is not shown.

    A rounded quotient is 1 or more because it is a size; `equal` keeps that its other form is the same.
    """
    if size in _FLOORS:
        positive = _floor(*_FLOORS[size], positive=True)
        if positive != size:
            equal[size] = positive
        return positive
    return size if is_at_least(size, 1) else None
