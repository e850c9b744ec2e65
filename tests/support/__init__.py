"""What tests in several folders share: a small language for traces, replays and their times.

Traces (`random_traces`)
    routed(ids, num_experts, prompt_rows, lengths)      a trace of these ids [T, L, K], with scores if logits are given
    random_trace(seed, prompts=..., decodes=...)        top k of random logits, with scores, lookahead and similarity
    recorded_trace(seed, width=..., half=...)           the same as a recorder writes it: token ids, labels, cut tables
    ids_trace(rows, experts, phase=...)                 nothing but ids, from nested lists
    truncated(table, width)                             a score table cut to its best experts
Traces by hand (`timelines`)
    rows([[0, 1]], [[2, 3]], prompt=1)                  one request: the experts of each token, layer by layer
    requests([...], prompts)                            several of them
Replays (`replays`)
    machine(link_bytes_per_s=...)                       hardware on which nothing takes time but a copy, 1 ns per byte
    replay_of(trace, policy, cache and run knobs)       a replay; `POLICIES` has the policies by name
    run(replay)                                         its metrics
Times (`timelines`)
    timed(trace, policy, hardware, engine=...)          latencies, parts, counts; `.slices("copy")` of its timeline
Rules without a paper
    fixed_rules                                         do what a hand-worked timeline says
    odd_rules                                           use every freedom that a rule has
Others
    tables.run, study_of                                invented results of runs as figures read them
    small_predictors.untrained(trace, settings, path)   a checkpoint of a small predictor
    devices.DEVICES, real_replay                        replays on real memory: the CPU, and CUDA where there is one
    reference.reference_replay                          LRU and Belady in plain Python, without any engine
    tiny_models.build(family), save_model               random models of ten families as Hugging Face folders
    importing.imported, refused                         an importer run as the command does
"""
