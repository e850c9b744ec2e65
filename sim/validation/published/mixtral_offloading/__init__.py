"""Mixtral-8x7B offloaded on several GPUs: the table of published runs, two fitted constants per GPU, the prediction."""
