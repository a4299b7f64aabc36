"""Which image and which of its reinforcements come next: pure functions of (seed, epoch, position). Reads no data.

An order (`order.py`) says of every position of an epoch which sample stands there, how often that was due before and which
of its showings in this turn it is; a choice (`choice.py`) turns these into a view of its own for each showing; a sampler
(`sampler.py`) cuts the positions into global batches and ranks' shares. Orders wrap each other in any nesting, and so do
orders of the user that have what `order.Order` lists.
"""
