"""A job put together: its parts from a configuration, and the loop over its updates."""
