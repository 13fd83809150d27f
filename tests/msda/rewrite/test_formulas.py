"""What is shown of formulas holds for numbers in place of their symbols."""

import itertools
import random

import pytest
import sympy

from ovavss.msda.rewrite.formulas import as_size, free, is_at_least, quotient, rounded_down, same, symbols_below

H, W = free("H"), free("W")


def number(size: sympy.Expr, values: dict[sympy.Symbol, int]) -> int:
    """The value of a formula; rounded quotients are spelled as text in their symbols' names."""
    text = str(size)
    return eval(text, {str(symbol): value for symbol, value in values.items()})


def test_rounded_quotients() -> None:
    draw = random.Random(0)
    for _ in range(300):
        formula: sympy.Expr = H
        steps = []
        for _ in range(draw.randint(1, 4)):
            factor, shift, divisor = draw.randint(1, 4), draw.randint(-3, 9), draw.choice([1, 2, 3, 4, 6, 8, 32])
            steps.append((factor, shift, divisor))
            formula = rounded_down(formula * factor + shift, sympy.Integer(divisor))
            assert formula is not None
        for height in (1, 2, 7, 31, 32, 33, 100, 1023):
            expected = height
            for factor, shift, divisor in steps:
                expected = (expected * factor + shift) // divisor
            assert number(formula, {H: height}) == expected, steps


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # A convolution of stride 2 three times, and a division by 8.
        ((lambda h: (h - 1) // 2 + 1, 3), lambda h: (h + 7) // 8),
        ((lambda h: (h - 4) // 2 + 2, 2), lambda h: h // 4),
    ],
)
def test_equal_quotients_are_equal_formulas(one: tuple, other: object) -> None:  # type: ignore[type-arg]
    class Number:
        """Builds a formula with the operators of integers."""

        def __init__(self, size: sympy.Expr) -> None:
            self.size = size

        def __add__(self, value: int) -> "Number":
            return Number(self.size + value)

        def __sub__(self, value: int) -> "Number":
            return Number(self.size - value)

        def __floordiv__(self, value: int) -> "Number":
            return Number(rounded_down(self.size, sympy.Integer(value)))

    step, times = one
    left = Number(H)
    for _ in range(times):
        left = step(left)
    assert same(left.size, other(Number(H)).size)  # type: ignore[operator]


def test_quotients_are_whole_or_none() -> None:
    assert quotient(H * W, W) == H
    assert quotient(2 * H + 4, sympy.Integer(2)) == H + 2
    assert quotient(H + 31, sympy.Integer(32)) is None
    assert quotient(H, W) is None
    assert quotient(H, sympy.Integer(0)) is None


def test_least_sizes() -> None:
    assert is_at_least(H * W + 1, 2)
    assert not is_at_least(H * W, 2)
    assert not is_at_least(H - W, 0)
    quarter = rounded_down(H, sympy.Integer(4))
    assert is_at_least(quarter, 0)
    assert not is_at_least(quarter, 1)
    assert is_at_least(rounded_down(H + 3, sympy.Integer(4)), 1)
    equal: dict[sympy.Expr, sympy.Expr] = {}
    assert as_size(quarter - 1, equal) is None
    size = as_size(quarter, equal)
    assert is_at_least(size, 1)
    assert equal == {quarter: size}
    assert symbols_below(size * W) == {H, W}


def test_an_entry_of_unknown_sign_shows_nothing() -> None:
    entry = sympy.Symbol("entry", integer=True)
    for least, size in itertools.product((0, 1), (entry, entry + H, H * entry)):
        assert not is_at_least(size, least)
    assert rounded_down(entry, sympy.Integer(2)) is None
