"""Bad command lines: one sentence with the words that matter, exit code 2, and no work done."""

from dataclasses import replace

import pytest
from hydra.core.global_hydra import GlobalHydra

from sim.__main__ import main
from tests.support.random_traces import recorded_trace
from traces.format.files import write_trace

# Overrides of `run` -> words of the sentence that refuses them.
NO_CPU = ["hardware.cpu_memory_bytes_per_s=null", "hardware.cpu_core_bytes_per_s=null"]
REFUSED = (
    (["cache.fraction=0.001"], "less than 1 slot per layer"),
    (["cache.slots_per_layer=0"], "cache.slots_per_layer=0: at least 1 slot is needed"),
    (["cache.bytes=1"], "at least 1 slot is needed"),
    (["cache.bytes=0"], "must be at least 1"),
    (["cache.slots_per_layer=1000"], "cache.slots_per_layer=1000: a layer has 8 experts"),
    (["cache.fraction=0.5", "cache.bytes=1000"], "cache.fraction and cache.bytes are both set"),
    (["cache.fraction=0.5", "cache.slots_per_layer=2"], "are both set"),
    (["cache.fraction=nan"], "cache.fraction=nan"),
    (["cache.fraction=inf"], "cache.fraction=inf"),
    (["cache.fraction=1e-400"], "cache.fraction=0"),
    (["cache.fraction=abc"], "must be a number or null"),
    (["cache.fraction="], "must be a number or null"),
    (["cache.scope=all"], "cache.scope=all: must be layer or global"),
    (["policy=importance", "trace.path=BARE"], "needs full gate scores"),
    (["policy=promoe"], "policy.prediction.checkpoint=embedded: it predicts demo"),
    (["policy=promoe", "policy.prediction.checkpoint=''"], "policy.prediction.checkpoint is not set"),
    (["policy=lru", "policy/prefetch=top_n"], "has no prediction to choose from"),
    (["policy=lru", "policy/assignment=two_pointer", *NO_CPU], "the time of an expert on"),
    (["cache.scope=global", "policy=lru", "policy/allocation=miss_curve"], "has one pool for all layers"),
    (["cache.semantics=sequential", "policy=importance"], "replays single accesses, and policy/prefetch of importance"),
    (["cache.overflow=hold", "policy=belady"], "use belady_admit"),
    (["cache.overflow=hold", "policy=on_demand"], "keeps every step, and policy on_demand keeps nothing"),
    (["engine=untimed", "timeline=true"], "has no clock"),
    (["engine=untimed", "what_if=true"], "has no clock"),
    (["batch_size=0"], "batch_size=0: must be at least 1"),
    (["batch_size=1.5"], "must be a whole number"),
    (["seed=-1"], "must be between 0 and 2**63 - 1"),
    (["seed=9223372036854775808"], "seed=9223372036854775808: must be a whole number, below 2**63"),
    (["prefill_chunk=0"], "must be at least 1"),
    (["timeline_steps=0"], "must be at least 1"),
    (["trace.requests=0"], "trace.requests=0: must be at least 1"),
    (["trace.requests=1000"], "the trace has 6 requests"),
    (["trace.fit_requests=6"], "must be below the trace's 6 requests"),
    (["trace.path=/nonexistent"], "does not exist"),
    (["trace.path=${nope}"], "'nope' not found"),
    (["hardware.link_bytes_per_s=0"], "must be above 0"),
    (["hardware.link_bytes_per_s=.inf"], "must be a finite number"),
    (["hardware.link_latency_s=-1"], "must be at least 0"),
    (["hardware.gpu_memory_bytes=1.5"], "must be a whole number"),
    (["model=gpt_oss_20b", "model.top_k=0"], "must be between 1 and"),
    (["devices.role=store"], "devices.role=store is of devices.count=2"),
    (["devices.count=2", "devices.role=store"], "devices.role=store needs devices.peer_bytes_per_s"),
    (["devices.count=2", "devices.role=both"], "devices.role=both: must be split or store"),
    (["devices.count=2", "devices.peer_bytes=7"], "devices.peer_bytes is of devices.role=store; use null"),
    (["devices.count=2", "timeline=true", "engine=untimed"], "devices.count=2: this replay has no clock"),
    (["policy.write_back=maybe"], "write_back"),
    (["policy.residency=some"], "policy.residency=some: must be cache, all or none"),
    (["policy.eviction._target_=os.system"], "must be a subclass"),
    (["policy.eviction._target_=nope.Nope"], "cannot be imported"),
    (["policy.eviction._target_=3"], "must name a class"),
    (["policy=improtance"], "policy=improtance is not known: did you mean importance?"),
    (["policy/eviction=lruu"], "policy/eviction=lruu is not known: did you mean lru?"),
    (["policy/eviction=nope"], "choose one of activation_prior"),
    (["hardware=rtx4091"], "did you mean rtx4090?"),
    (["model=qwen3_30b"], "did you mean qwen3_30b_a3b?"),
    (["engine=3"], "engine=3: must be the name of a file in that group"),
    (["policy=7"], "policy=7: must be the name of a file in that group"),
    (["hardware=null"], "hardware=null: must be the name of a file in that group"),
    (["policy/eviction=7"], "policy/eviction=7: must be the name of a file in that group"),
    (["policy=[lru,7]"], "policy=[lru,7]: cannot be composed"),
    (["policy=[]"], "policy is missing from the configuration"),
    (["policy.eviction=7"], "policy.eviction=7: must be a group of knobs, not a value"),
    (["policy.eviction=null"], "policy.eviction is missing from the configuration"),
    (["sweep=null"], "sweep is missing from the configuration"),
    (["time=null"], "time is missing from the configuration"),
    (["hydra.run=null"], "hydra.run"),
    (["hydra.job=7"], "int is not a subclass of JobConf"),
    (["hydra.searchpath=7"], "hydra.searchpath must be a list of strings"),
    (["hydra.searchpath=[foo://bar]"], "No config source registered for schema foo"),
    (["sweep.steps=maybe"], "sweep.steps=maybe: must be true or false"),
    (["sweep.objectives=7"], "sweep.objectives=7: must be a list or null"),
    (["sweep.objectives=[7]"], "sweep.objectives=[7]: must be a list of names of metrics"),
    (["hardware.sources=null"], "sources=None must hold one entry per figure"),
    (["--nope"], "--nope is not a flag of run"),
    (["--config-dir"], "--config-dir has no value"),
    (["--cfg", "nope"], "--cfg nope: must be one of job, hydra, all"),
    (["--resolve"], "--resolve"),
    (["--shell-completion"], "--shell-completion"),
    (["prefill_chunk=9223372036854775808"], "must be a whole number or null, below 2**63"),
    (["hydra/launcher=3"], "hydra/launcher=3: must be the name of a file in that group"),
    (["engine=fast"], "engine=fast is not known: choose one of compiled, simpy, untimed"),
    (["cache.fracton=0.5"], "cache.fracton is not a key of the configuration: did you mean cache.fraction?"),
    (["polcy=lru"], "polcy is not a key of the configuration: did you mean policy?"),
    (["+polcy=lru"], "did you mean policy?"),
    (["+cache.slots_layer=3"], "did you mean slots_per_layer?"),
    (["cache=3"], "cache=3: must be a group of knobs, not a value"),
    (["~policy.prefetch"], "policy.prefetch is missing"),
    (["cache.fraction"], "an override is KEY=VALUE, as policy=lru"),
    (["cache.fraction=[0.5"], "cannot be read as an override"),
    (["=3"], "an override has no name"),
    (["--config-name=nope"], "Cannot find primary config 'nope'"),
    (["--config-dir=/nonexistent"], "not found"),
    (["hydra/launcher=nope"], "hydra/launcher=nope"),
    (["system=nope"], "system=nope"),
    (["-m", "policy=improtance,lru"], "did you mean importance?"),
    (["-m", "seed=1,2", "hydra.sweeper.max_batch_size=0"], "max_batch_size=0: cannot be composed: must keep"),
    (["-m", "seed=1,2", "hydra.verbose=7"], "hydra.verbose=7: cannot be composed: must keep isinstance"),
    (["-m", "seed=1,2", "hydra.launcher=7"], "hydra.launcher=7: cannot be composed"),
    (["-m", "seed=1,2", "hydra.sweeper=null"], "hydra.sweeper=null: cannot be composed"),
    (["-m", "seed=1,2", "hydra.sweeper._target_=abc"], "hydra.sweeper._target_=abc: cannot be composed"),
    (["-m", "cache.fraction=7,8"], "must be above 0 and at most 1"),
    (["-m", "cache.fracton=0.1,0.5"], "did you mean cache.fraction?"),
)  # fmt: skip
OTHERS = (
    (["record", "model=/nonexistent"], "does not exist"),
    (["record", "modl=demo"], "did you mean model?"),
    (["record", "max_new_tokens=abc"], "must be a whole number"),
    (["record", "max_new_tokens=0"], "max_new_tokens=0"),
    (["record", "mode=sing"], "mode=sing"),
    (["record", "requests=abc"], "requests=abc: must be a whole number or null"),
    (["record", "requests=true"], "requests=True: must be a whole number or null"),
    (["record", "requests=1.5"], "requests=1.5: must be a whole number or null"),
    (["record", "prompts=[]"], "prompts=[]: must be a word"),
    (["record", "prompts=null"], "prompts"),
    (["record", "out=7"], "out=7: must be a word or null"),
    (["train-predictor", "out=[a]"], "out=['a']: must be a word or null"),
    (["calibrate", "out=true"], "out=True: must be a word or null"),
    (["calibrate", "runtime_out=[]"], "runtime_out=[]: must be a word or null"),
    (["calibrate", "hidden_size=9223372036854775807"], "more than any machine holds"),
    (["calibrate", "expert_ffn=9223372036854775807"], "more than any machine holds"),
    (["validate", "real.hidden_size=9007199254740992"], "more than any machine holds"),
    (["record", "prompts=/nonexistent"], "no such file"),
    (["record", "model.dtype=float7"], "model.dtype=float7"),
    (["record", "-m", "model=/nonexistent"], "does not exist"),
    (["record", "-m", "hydra.sweeper.max_batch_size=0"], "must keep max_batch_size is None or max_batch_size > 0"),
    (["train-predictor", "predictor=promoe"], "did you mean promoe_mlp?"),
    (["train-predictor", "train.max_epoch=1"], "did you mean train.max_epochs?"),
    (["train-predictor", "train.max_epochs=0"], "must be between 1"),
    (["train-predictor", "train.learning_rate=nan"], "train.learning_rate=nan"),
    (["train-predictor", "predictor.width=7"], "must be a multiple"),
    (["train-predictor", "trace.path=/nonexistent"], "does not exist"),
    (["train-predictor", "-m", "train.max_epochs=0,-1"], "must be between 1"),
    (["info", "/nonexistent"], "does not exist"),
    (["plot", "/nonexistent"], "is no folder"),
    (["policies", "improtance"], "did you mean importance?"),
    (["rn"], "did you mean run?"),
)


HYDRA = ("calibrate", "record", "train-predictor", "validate")
"""Commands here that take Hydra's overrides."""


def shown(given):
    """How a case is called."""
    return " ".join(given) if isinstance(given, list) else ""


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Folder with a trace that has everything, and one without any scores."""
    folder = tmp_path_factory.mktemp("traces")
    trace = recorded_trace(0, (0, 1, 2) * 2, (4,) * 6)
    write_trace(folder / "t.safetensors", trace)
    bare = replace(trace, router_logits=None, lookahead_before=None, lookahead_after=None)
    write_trace(folder / "bare.safetensors", bare)
    return folder


def check_refused(argv, sentence, runs, capfd):
    GlobalHydra.instance().clear()
    try:
        status = main(argv)
    except SystemExit as end:
        status = end.code
    said = capfd.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith(("error: ", "failed: "))]  # one for each job
    assert status == 2 and "Traceback" not in said, said
    assert errors and all(sentence in line for line in errors), said
    assert len(errors) == 1 or "-m" in argv
    assert not any(runs.rglob("metrics.json"))


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), REFUSED, ids=shown)
def test_overrides_of_run_are_refused(words, sentence, traces, tmp_path, capfd):
    given = [word.replace("BARE", str(traces / "bare.safetensors")) for word in words]
    path = [] if any("trace.path" in word for word in words) else [f"trace.path={traces / 't.safetensors'}"]
    places = [f"hydra.run.dir={tmp_path / 'one'}", f"hydra.sweep.dir={tmp_path / 'all'}"]
    check_refused(["run", *given, *path, *places], sentence, tmp_path, capfd)


@pytest.mark.parametrize(("words", "sentence"), OTHERS, ids=shown)
def test_other_commands_refuse(words, sentence, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    places = [f"hydra.run.dir={tmp_path / 'one'}", f"hydra.sweep.dir={tmp_path / 'all'}"]
    check_refused([*words, *(places if words[0] in HYDRA else [])], sentence, tmp_path, capfd)


@pytest.mark.parametrize(
    "words",
    [
        ["--config-dir", "USER", "policy=lru", "policy/eviction=mine"],
        ["policy=lru", "--config-dir", "USER", "policy/eviction=mine"],
        ["policy=lru", "policy/eviction=mine", "-cd", "USER"],
        ["policy=lru", "--config-dir=USER", "policy/eviction=mine", "--run"],
    ],
    ids=shown,
)
def test_flags_of_hydra_may_stand_anywhere(words, traces, tmp_path, capsys):
    (tmp_path / "user" / "policy" / "eviction").mkdir(parents=True)
    rule = "_target_: policies.eviction.fifo.Fifo\n"
    (tmp_path / "user" / "policy" / "eviction" / "mine.yaml").write_text(rule)
    GlobalHydra.instance().clear()
    given = [word.replace("USER", str(tmp_path / "user")) for word in words]
    argv = ["run", *given, f"trace.path={traces / 't.safetensors'}", "engine=compiled"]
    assert main([*argv, f"hydra.run.dir={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / "metrics.json").is_file()


def test_integers_at_the_edge_end_in_a_result(traces, tmp_path, capsys):
    """Once a segmentation fault."""
    GlobalHydra.instance().clear()
    argv = ["run", "policy=lru", "engine=compiled", f"trace.path={traces / 't.safetensors'}"]
    argv += ["prefill_chunk=9223372036854775807", "batch_size=9223372036854775807"]
    assert main([*argv, f"hydra.run.dir={tmp_path / 'out'}"]) == 0


def test_names_that_are_no_text_are_refused(capsys):
    for argv in (["info", "bad\udcff.safetensors"], ["run", "trace.path=bad\udcff.safetensors"]):
        assert main(argv) == 2
        assert "bad\\udcff.safetensors: is no UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["bench", "policy=7"], "policy=7: must be the name of a file in that group"),
        (["bench", "policy=/dev/zero"], "policy=/dev/zero is not known"),
        (["bench", "policy=lru", "out=-"], "several files are written"),
        (["bench", "policy=lru", "out=/dev/null"], "several files are written"),
        (["check-policy", "eviction/lru", "engine=7"], "engine=7: must be the name of a file in that group"),
        (["check-policy", "eviction/lru", "policy=[]"], "policy"),
        (["judge", "/dev/zero"], "/dev/zero is a device: must be a file"),
        (["judge", "/nonexistent"], "there is no such file"),
        (["judge", "vectors", "out=-"], "several files are written"),
        (["validate", "out=-"], "several files are written"),
        (["validate", "out=/dev/null"], "several files are written"),
        (["plot", "demo", "out=-"], "several files are written"),
        (["run", "policy=/dev/zero"], "policy=/dev/zero is not known"),
        (["run", "policy/eviction=/dev/zero"], "policy/eviction=/dev/zero is not known"),
        (["run", "out=-"], "several files are written"),
        (["run", "-m", "policy=lru", "out=-"], "several files are written"),
    ],
    ids=shown,
)
def test_places_and_choices_that_can_be_none(words, sentence, tmp_path, capfd, monkeypatch):
    """Of commands that compose a configuration themselves, and of results that are several files."""
    monkeypatch.chdir(tmp_path)
    check_refused(words, sentence, tmp_path, capfd)
    assert not [path for path in tmp_path.iterdir() if path.name != "outputs"]


def test_a_current_folder_that_is_gone_is_said(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["report", "somewhere"]) == 2
    assert "error: the current folder is gone or cannot be read: No such file or directory" in capsys.readouterr().err
