"""A search for policies over a map of machines, judged on requests, traces and machines that it never saw."""
