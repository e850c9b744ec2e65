"""How a capacity is split over the layers: one rule per file."""
