"""The tools that are measured side by side, each behind the same few functions.

A tool is a module with ``TITLE``, ``PACKAGE``, ``product(model, batches)``, which gives v ↦ Hv of
flat vectors, ``trace(model, batches, products, seed, method)``, and
``eigmax(model, batches, seed)``, which gives values by products.
"""

from importlib import import_module, metadata
from types import ModuleType

MODULES = ("pyhessian", "curvlinops", "eigenthings")


def installed() -> dict[str, ModuleType]:
    """Those whose package is there, by their short names."""
    found = {}
    for name in MODULES:
        try:
            found[name] = import_module(f"peers.{name}_tool")
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return found


def versions() -> dict[str, str]:
    """Of the packages that the numbers depend on."""
    known = ("PyHessian", "curvlinops-for-pytorch", "hessian-eigenthings", "scipy", "numpy")
    found = {}
    for package in known:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
