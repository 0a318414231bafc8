"""The stages that ship. Every module of this folder is imported here: a new stage is one new file that calls `register`."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
