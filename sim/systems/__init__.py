"""Models of whole systems whose topology the engines of one device do not cover: several nodes, links and networks."""
