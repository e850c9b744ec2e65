"""Systems of several devices: clusters and chiplets, each a SimPy model of its own."""
