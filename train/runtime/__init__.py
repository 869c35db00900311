"""The ground that all rooms stand on: console, errors, files, keys, device, ranks, cores, signals, graphs, drawing."""
