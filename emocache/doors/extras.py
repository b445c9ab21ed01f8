"""Packages that only some doors need."""

from __future__ import annotations

from importlib import import_module

from emocache.errors import MissingPackage


def need(package: str, what: str) -> None:
    """Find that a package of the extra ``doors`` can be imported.

    what: what needs it, for the message
    raises: MissingPackage if it is not installed
    """
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != package.partition(".")[0]:
            raise  # it is there, but broken: that is told as it is
        raise MissingPackage(
            f"{what} needs the package {package}, which is not installed; pip install 'emocache[doors]'"
        ) from None
