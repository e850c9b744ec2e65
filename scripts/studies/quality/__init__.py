"""What substitution costs in quality, MEASURED in the demo model: a module per question, cases in `bench`."""
