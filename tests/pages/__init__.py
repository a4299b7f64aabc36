"""Runs the code blocks of the documentation: the blocks of a page, the world that they run in, and commands in it.

`blocks` finds them, `world` makes the folders that pages name, `warm` is a process that forks for every command, so that
a hundred commands do not import PyTorch and DALI a hundred times, `commands` are the programs that pages call, cut down
in what they do but not in what they accept, and `page` runs the blocks of one page in their order.
"""
