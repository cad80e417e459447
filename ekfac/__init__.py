"""Eigenvalue-corrected Kronecker factors: fit them from pairs of tensors, solve with them, keep them in files."""

from ekfac.basis import BadFactor, Basis, eigenbasis
from ekfac.factors import Factor, Factors, diagonal, factors, identity, kfac, merge
from ekfac.files import DamagedFactors, load, save
from ekfac.solve import EKFACSolver, solver
from ekfac.spectral import spectral

__all__ = [
    "BadFactor",
    "Basis",
    "DamagedFactors",
    "EKFACSolver",
    "Factor",
    "Factors",
    "diagonal",
    "eigenbasis",
    "factors",
    "identity",
    "kfac",
    "load",
    "merge",
    "save",
    "solver",
    "spectral",
]
