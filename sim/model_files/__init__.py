"""Sizes of a model from its own files: a `config.json` of Hugging Face, the header of a GGUF file.

May import `traces` alone; used by `sim.group_files`. Start with `config_json.py` (`read_config_json`: which field is
which), `layers.py` (what each layer is and how many numbers it has), `bits.py` (how they are stored) or
`gguf_header.py`.
"""
