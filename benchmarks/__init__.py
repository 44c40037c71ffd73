"""Millrace beside its peers, in one run: `python -m benchmarks large_file` (docs/benchmarks.md).

A scenario (`scenarios/`) says what is asked of which peers, a peer (`peers/`) is a server that can be asked;
each is one file. A new scenario also needs its row in `__main__.SCENARIOS` and a block in the docs,
a new peer its place in the `PEERS` of a scenario.
"""
