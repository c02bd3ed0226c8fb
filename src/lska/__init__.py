"""Large Separable Kernel Attention (arXiv 2309.01439) as a pipeline.

``import lska`` registers our networks (``van_tiny``, ``van_small``, ``van_base``, ...) in timm. It stays light, as timm
takes seconds to import, for which a Snakefile that only wants run names must not wait: the registration happens when
timm gets imported, or at once where it already is.
"""

import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__version__ = "0.1.0"


class _TimmFinder(MetaPathFinder):
    """Finds timm by the other finders and has our networks registered once it is loaded."""

    looking = False

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "timm" or self.looking:
            return None
        self.looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.looking = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            vars(spec.loader).pop("exec_module", None)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            execute(module)
            importlib.import_module("lska.models").register_networks()

        spec.loader.exec_module = execute_and_register
        return spec


if "timm" in sys.modules:
    importlib.import_module("lska.models").register_networks()
else:
    sys.meta_path.insert(0, _TimmFinder())
