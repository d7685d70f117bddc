"""The server under kills, cuts and broken disks, exact afterwards.

Each run draws a seed, prints it, and can be done again with FAULT_SEED. FAULT_ROUNDS makes them
longer; one round is what CI has.
"""
