"""Large Separable Kernel Attention (arXiv 2309.01439) as a pipeline.

``import lska`` registers ``van_tiny``, ``van_small`` and ``van_base`` in timm. It stays light: it imports neither torch
nor timm; the registration happens when timm gets imported, in whichever order the two come.
"""

from lska.models.registration import register_with_timm

__version__ = "0.1.0"

register_with_timm()
