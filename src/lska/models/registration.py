"""Registration of our networks in timm without importing timm.

timm takes seconds to import, and a Snakefile that only wants run names must not wait for it. So the networks are
registered by a hook that acts when timm gets imported, or at once where it already is.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

OURS = ("lska.models.van", "lska.models.replknet", "lska.models.slak", "lska.models.pvt")
"""Modules that register our networks."""


class _RegisterAfterImport(Loader):
    """timm's own loader, followed by the import of our networks."""

    def __init__(self, loader: Loader, finder: TimmFinder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # timm must see its own loader: importlib.resources and pickling ask for it.
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._finder.remove()
        import_all()


class TimmFinder(MetaPathFinder):
    """Finds timm by the other finders and adds our registration to its loading; ignores every other module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return timm's spec with a loader that also registers our networks, or None for any other name."""
        if fullname != "timm":
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisterAfterImport(spec.loader, self)
        return spec

    def remove(self) -> None:
        """Take this finder off ``sys.meta_path``: its work is done once timm is loaded."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)


def import_all() -> None:
    """Import the modules of our networks, which registers these; imports torch and timm."""
    for name in OURS:
        importlib.import_module(name)


def register_with_timm() -> None:
    """Register our networks: now if timm is imported, else when it gets imported."""
    if "timm" in sys.modules:
        import_all()
    elif not any(isinstance(finder, TimmFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TimmFinder())
