"""Student's t without SciPy: the interval code runs wherever numpy does."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

_NORMAL = NormalDist()
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)


def student_cdf(x: float, degrees: float) -> float:
    """P(T <= x) of Student's t, by quadrature of cos(angle)^(degrees - 1), x = sqrt(degrees) tan(angle).

    Args:
        x: Any number; infinite ones are allowed.
        degrees: Degrees of freedom, at least 1; infinite is the normal distribution.

    Returns:
        Probability in [0, 1], to about 1e-9.
    """
    if math.isinf(x):
        return 1.0 if x > 0 else 0.0
    if degrees > 1e6:  # the distributions agree to 1e-7 from here on
        return _NORMAL.cdf(x)
    angle = math.atan(x / math.sqrt(degrees))
    # The bump has a width of 1/sqrt(degrees): integrating from 0 to the angle follows it at any scale.
    nodes = 0.5 * angle * (_NODES + 1)
    area = 0.5 * angle * float(np.sum(_WEIGHTS * np.cos(nodes) ** (degrees - 1)))
    return min(1.0, max(0.0, 0.5 + _scale(degrees) * area))


def student_quantile(probability: float, degrees: float) -> float:
    """The x with student_cdf(x, degrees) = probability.

    Newton's method from the normal distribution's quantile: above the median the distribution function is
    concave and its quantile lies further out, so that every step falls short and none goes past.

    Args:
        probability: In (0, 1).
        degrees: Degrees of freedom, at least 1.

    Returns:
        Quantile, to about 1e-8.

    Raises:
        ValueError: The probability is not inside (0, 1).
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability is {probability}; it must lie inside (0, 1)")
    if probability < 0.5:
        return -student_quantile(1 - probability, degrees)
    x = _NORMAL.inv_cdf(probability)
    for _ in range(100):
        step = (probability - student_cdf(x, degrees)) / _density(x, degrees)
        x += step
        if step <= 1e-10 * x:
            break
    return x


def _density(x: float, degrees: float) -> float:
    return _scale(degrees) / math.sqrt(degrees) * math.exp(-(degrees + 1) / 2 * math.log1p(x * x / degrees))


def _scale(degrees: float) -> float:
    return math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
