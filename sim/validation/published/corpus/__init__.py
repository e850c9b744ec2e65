"""Published speeds of many machines: each row predicted without its machine, then after one and two rows of it."""
