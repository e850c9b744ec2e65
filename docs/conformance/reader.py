"""LRU and Belady with every miss admitted, in numpy alone, on the vectors: python reader.py VECTORS > mine.json"""

import json
import sys
from pathlib import Path

import numpy as np


def replay(vector, next_use=None):
    """Hits of every step and layer, and the residents after it, of a cache that is looked up a whole step at a time."""
    ids = np.concatenate([np.array(one["ids"]) for one in vector["trace"]["requests"]])  # [tokens, layers, top_k]
    layers, experts, slots = ids.shape[1], vector["trace"]["num_experts"], vector["cache"]["slots_per_layer"]
    warm = vector["cache"].get("start") == "warm"
    held = [set(range(slots)) if warm else set() for _ in range(layers)]
    worth = np.full((layers, experts), -1.0)
    steps = [step["tokens"] for step in vector["answers"]["steps"]]  # drafts that are rejected come again later
    answers = [{"hits": [], "resident_after": []} for _ in steps]
    for number, tokens in enumerate(steps):
        for layer in range(layers):
            demand = set(ids[tokens, layer].ravel().tolist()) - {-1}  # -1: a rank without an expert
            answers[number]["hits"].append(len(demand & held[layer]))
            for place, token in enumerate(tokens):  # LRU: when it was used last
                worth[layer, ids[token, layer][ids[token, layer] >= 0]] = number + place / len(tokens)
            if next_use is not None:  # Belady: the sooner it is used again the better
                worth[layer] = [-next_use(ids, steps, number, layer, expert) for expert in range(experts)]
            best = sorted(demand | held[layer], key=lambda e: (e in demand, worth[layer, e], e), reverse=True)
            held[layer] = set(best[:slots])
            answers[number]["resident_after"].append(sorted(held[layer]))
    return {"steps": answers}


def next_step(ids, steps, number, layer, expert):
    """The next step that uses an expert."""
    return next((n for n in range(number + 1, len(steps)) if expert in ids[steps[n], layer]), np.inf)


if __name__ == "__main__":
    vectors = [json.loads(path.read_text()) for path in sorted(Path(sys.argv[1]).glob("*.json"))]
    rules = {"lru": None, "belady_admit": next_step}
    found = {one["name"]: replay(one, rules[one["policy"]]) for one in vectors if one["policy"] in rules}
    print(json.dumps({"tool": "reader.py", "answers": found}))
