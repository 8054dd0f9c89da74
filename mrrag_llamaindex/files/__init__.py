"""Files and devices: the hub, atomic writes, lines of JSON."""
