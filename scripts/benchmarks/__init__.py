"""Times and memory beside those of a textbook model and of libcachesim; all MEASURED on this machine."""
