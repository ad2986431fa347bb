"""The linear-chain CRF: likelihood, gradient, marginals, best paths and samples."""

from jade_model.core.crf.layer import CRF

__all__ = ["CRF"]
