"""The toy model behind the embedded trace: its recipe, training, and cache folder.

May import all other packages of traces; none of them imports this one. torch is imported only inside functions.
Start at `recipe.Recipe`, then `cache.demo_model`, which trains the model unless this machine has it.
"""
