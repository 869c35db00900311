"""Data-parallel training: one configuration, one compiled step, one loop, and the hooks that watch it.

Start it as a command (``python -m train --config RECIPE``). Importing this package imports no MindSpore, so that a
wrong configuration is refused within a second and the device defaults are set before the framework loads.
"""
