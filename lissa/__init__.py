"""Iterative solvers of (G + λI) x = v, Neumann (LiSSA) and conjugate gradients; they know a product and no model."""

from lissa.block import block_cg
from lissa.certify import Certificate, certified, certify
from lissa.cg import cg
from lissa.neumann import neumann
from lissa.power import Largest, largest
from lissa.problem import Diverged, Indefinite, Lam, Product, prepare

__all__ = [
    "Certificate",
    "Diverged",
    "Indefinite",
    "Lam",
    "Largest",
    "Product",
    "block_cg",
    "certified",
    "certify",
    "cg",
    "largest",
    "neumann",
    "prepare",
]
