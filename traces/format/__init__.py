"""The trace itself and its file: what it holds, how it is read, checked and written (traces/README.md is the format).

May import traces.errors. Compiled code is imported inside the functions that run it, so that headers are read at once.
Start at `trace.Trace`, then `files.read_trace` and `files.write_trace`.
"""
