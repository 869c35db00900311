"""The folder of a run: its names, its lock, and for each file in it the writer beside the reader."""
