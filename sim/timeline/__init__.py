"""What GPU, link and CPU did when, as a trace-event file for Perfetto.

May import `sim.results` and below.
Start with `event_file.py`.
"""
