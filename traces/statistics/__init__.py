"""What a trace says about caches, prefetch and substitution: locality, LRU hits, score bands, lookahead recall.

May import traces.format and traces.score_bands. Compiled code is imported inside the functions that run it.
Start at `summary.summarize`, which gathers all of them for `python -m sim info`.
"""
