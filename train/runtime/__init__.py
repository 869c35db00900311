"""The ground that all rooms stand on: how a command ends, kinds of keys, the device, ranks, cores, signals, drawing."""
