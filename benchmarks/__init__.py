"""Millrace beside its peers, in one run: `python -m benchmarks all` (docs/benchmarks.md).

A scenario (`scenarios/`) says what is asked, a peer (`peers/`) is a server that can be asked, a file each;
`load/` asks. A new scenario also needs its place in `__main__.SCENARIOS` and a block in the docs, a new peer
its place in `__main__` beside its like and in `.ci/run`.
"""
