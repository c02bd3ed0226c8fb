"""The kernel that executes notebooks (`python -m lska.tables.kernel`): IPython's own, but for anybody's settings."""

from __future__ import annotations

from typing import Any

from ipykernel.kernelapp import IPKernelApp


class OwnKernelApp(IPKernelApp):
    """Neither a user's profile nor configurations of the machine, the environment or the working folder are read."""

    def load_config_file(self, *arguments: Any, **options: Any) -> None:
        """Nothing."""


if __name__ == "__main__":
    OwnKernelApp.launch_instance()
