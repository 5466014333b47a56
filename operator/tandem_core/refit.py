"""Online refit of the performance model: recursive least squares with forgetting, held inside bounds.

A shipped profile is right to some percent; a fleet's own engine steps tell the rest. The refit moves slowly, ignores
what cannot be (NaN, negative time), and never leaves a band around the shipped coefficients, so that a run of bad
measurements cannot make the autoscaler believe in free GPUs.
"""

from dataclasses import dataclass, replace
from math import isfinite

from tandem_core.performance import MS_PER_S, PerformanceModel

FORGETTING = 0.998
INITIAL_VARIANCE = 20.0  # of a gain, in units of the variance of the measurements
BAND = 3.0  # a coefficient stays within shipped / BAND … shipped × BAND
RESIDUAL_WEIGHT = 0.02

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]
_ONES: Vector = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class LinearRefit:
    """Three multipliers on three shipped terms, learned from durations. Starts at one each.

    Attributes:
        gains: factor on each shipped coefficient, within 1/BAND … BAND.
        covariance: of the gains.
        residual: smoothed |measured − predicted| / measured.
        samples: measurements used.
    """

    gains: Vector = _ONES
    covariance: Matrix = ((INITIAL_VARIANCE, 0.0, 0.0), (0.0, INITIAL_VARIANCE, 0.0), (0.0, 0.0, INITIAL_VARIANCE))
    residual: float = 0.0
    samples: int = 0

    def updated(self, terms: Vector, measured: float) -> "LinearRefit":
        """After one measurement. `terms` are the shipped model's addends, in the unit of `measured`.

        Impossible measurements (not finite, not positive) leave everything as it was.
        """
        if not (isfinite(measured) and measured > 0 and all(isfinite(term) and term >= 0 for term in terms)):
            return self
        # Dividing by the measurement weighs relative error alike for short and long steps.
        features: Vector = (terms[0] / measured, terms[1] / measured, terms[2] / measured)
        error = 1.0 - _dot(self.gains, features)
        spread = _times(self.covariance, features)
        scale = FORGETTING + _dot(features, spread)
        return LinearRefit(
            gains=_bounded(self.gains, spread, error / scale),
            covariance=_shrunk(self.covariance, spread, scale),
            residual=self.residual + RESIDUAL_WEIGHT * (abs(error) - self.residual),
            samples=self.samples + 1,
        )


@dataclass(frozen=True, slots=True)
class Refit:
    """A performance model that follows what its fleet measures."""

    shipped: PerformanceModel
    prefill: LinearRefit = LinearRefit()
    decode: LinearRefit = LinearRefit()

    def with_prefill(self, steps: int, new_tokens: int, square_tokens: int, measured_s: float) -> "Refit":
        """After a measured prefill batch: its steps, Σ n, Σ (n² + 2 n h), and its seconds."""
        base = self.shipped
        terms = (base.p0_ms * steps, base.p1_ms * new_tokens, base.p2_ms * square_tokens)
        return replace(self, prefill=self.prefill.updated(terms, measured_s * MS_PER_S))

    def with_decode(self, sequences: float, kv_tokens: float, measured_s: float) -> "Refit":
        """After a measured decode step (or the mean of some alike)."""
        base = self.shipped
        terms = (base.d0_ms, base.d1_ms * sequences, base.d2_ms * kv_tokens)
        return replace(self, decode=self.decode.updated(terms, measured_s * MS_PER_S))

    @property
    def residual(self) -> float:
        """The larger of both relative residuals: how far the model may be trusted."""
        return max(self.prefill.residual, self.decode.residual)

    def model(self) -> PerformanceModel:
        """The performance model as it is believed now."""
        base, p, d = self.shipped, self.prefill.gains, self.decode.gains
        return replace(
            base,
            p0_ms=base.p0_ms * p[0],
            p1_ms=base.p1_ms * p[1],
            p2_ms=base.p2_ms * p[2],
            d0_ms=base.d0_ms * d[0],
            d1_ms=base.d1_ms * d[1],
            d2_ms=base.d2_ms * d[2],
        )


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _times(matrix: Matrix, vector: Vector) -> Vector:
    return (_dot(matrix[0], vector), _dot(matrix[1], vector), _dot(matrix[2], vector))


def _bounded(gains: Vector, spread: Vector, step: float) -> Vector:
    moved = [min(BAND, max(1.0 / BAND, gain + step * along)) for gain, along in zip(gains, spread, strict=True)]
    return (moved[0], moved[1], moved[2])


def _shrunk(covariance: Matrix, spread: Vector, scale: float) -> Matrix:
    """(C − s sᵀ / scale) / forgetting. Nothing is forgotten once the covariance is as wide as at the start."""
    width = covariance[0][0] + covariance[1][1] + covariance[2][2]
    forgetting = FORGETTING if width < 3 * INITIAL_VARIANCE else 1.0

    def row(number: int) -> Vector:
        cells = [
            (covariance[number][column] - spread[number] * spread[column] / scale) / forgetting for column in range(3)
        ]
        return (cells[0], cells[1], cells[2])

    return (row(0), row(1), row(2))
