"""Measures this machine into a hardware file: microbenchmarks, and two runs of the runtime itself."""
