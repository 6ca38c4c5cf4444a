"""Import torch and the networks, which takes seconds: commands first refuse what they can refuse without them."""

import gc
from importlib import import_module


def import_quickly(*modules: str) -> None:
    """Import modules with garbage collection turned off, which would take a quarter of the time and find nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for module in modules:
            import_module(module)
    finally:
        if was_enabled:
            gc.enable()
