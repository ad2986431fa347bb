"""What a comparison can see, and what it would take to see more.

Both answers are for 80 % power at the interval that the verdict uses, and take it that the standard error
shrinks with one over the square root of the number of groups. Training noise does so only if the number of
trainings grows too.
"""

from __future__ import annotations

import math

from jade_model.statistics.student import student_quantile

POWER = 0.8


def detectable_difference(standard_error: float, critical_value: float, degrees: float) -> float:
    """Smallest true difference whose interval leaves 0 out in 80 % of repetitions.

    Args:
        standard_error: Of the difference.
        critical_value: Half-width of the interval in standard errors.
        degrees: Degrees of freedom of the standard error.

    Returns:
        Difference of F1s, at most 1.
    """
    return min(1.0, (critical_value + student_quantile(POWER, degrees)) * standard_error)


def groups_needed(difference: float, detectable: float, margin: float, num_groups: int) -> int:
    """How many more groups would decide: show the difference, or show that it lies within the margin.

    Args:
        difference: As observed; taken for the true one.
        detectable: What detectable_difference says of the present data.
        margin: Largest difference that counts as none, > 0.
        num_groups: Groups in the present data.

    Returns:
        Additional groups, at least 1: the smaller of the two answers.
    """
    size = abs(difference)
    # At half the margin either question takes as many groups; beyond it, the difference is quicker to show.
    target = max(size, margin - size)
    return max(1, math.ceil(num_groups * ((detectable / target) ** 2 - 1)))
