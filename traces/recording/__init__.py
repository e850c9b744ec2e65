"""Records traces by running a Hugging Face MoE model over prompts; quality and real runs hook models the same way.

May import traces.format and traces.corpus. torch and transformers take seconds to import: only functions import them.
Start at `recorder.record`, then `tap.Tap` (hooks), `moe_layers` (finds the layers) and `collected` (makes the trace).
"""
