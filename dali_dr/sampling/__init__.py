"""Which image and which of its reinforcements come next: pure functions of (seed, epoch, position). Reads no data."""
