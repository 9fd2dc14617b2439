"""Loss scaling, activation checkpointing and torch.compile: they change no result."""
import copy
import math
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from albert import AlbertConfig, AlbertForPretraining
from albert.attention import KINDS
from data.examples import NO_LABEL
from hps import HPS
from trainer import signals
from trainer.compiling import compile_blocks
from trainer.distributed import World
from trainer.errors import RunError
from trainer.loop import Trainer
from trainer.pretraining import Pretraining
from trainer.scaling import LossScaler

CPU = torch.device("cpu")
CONFIG = dict(vocab_size=60, embedding_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
              intermediate_size=32, max_position_embeddings=64, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)


def model_of(**changes):
    torch.manual_seed(0)
    return AlbertForPretraining(AlbertConfig(**{**CONFIG, **changes}))


class Task:
    """Rows of random tokens whose every tenth is to be told; ``blow_up`` makes the loss of those updates infinite."""
    count_names, sum_names, read_share = ("mlm", "tokens"), ("mlm_loss",), 1.0

    def __init__(self, blow_up=()):
        self.blow_up, self.step = blow_up, 0

    def position(self):
        return {"step": 0}

    def updates(self, position):
        step = position["step"]
        while True:
            step += 1
            self.step = step
            ids = torch.randint(5, 60, (4, 40), generator=torch.Generator().manual_seed(step))
            yield {"step": step}, [(0, {"ids": ids[:3]}), (1, {"ids": ids[3:, :24]})]

    def counts(self, batch):
        return {"mlm": batch["ids"][:, ::10].numel(), "tokens": batch["ids"].numel()}

    def sums(self, model, batch):
        ids = batch["ids"]
        logits = model(ids.masked_fill(torch.arange(ids.shape[1]) % 10 == 0, 4)).mlm_logits[:, ::10]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, ::10].flatten(), reduction="sum")
        return {"mlm_loss": loss * (math.inf if self.step in self.blow_up else 1)}

    def evaluation(self):
        return []

    def metrics(self, outputs):
        return {"loss": 1.0}

    def goodness(self, scores):
        return -scores["loss"]

    def baselines(self):
        return {}


def train(steps=12, task=None, scaler=None, dtype=None, model=None, **settings):
    """The trainer and its log after so many updates."""
    hps = SimpleNamespace(**vars(HPS["pretrain", "tiny"]))
    vars(hps).update({**dict(max_steps=steps, warmup_steps=2, log_every=1, eval_every=1000, seq_len=64, precision="fp32"),
                      **settings})
    trainer = Trainer(task or Task(), model or model_of(), None, hps, World(0, 1, CPU), quiet=True)
    trainer.scaler, trainer.dtype = scaler or trainer.scaler, dtype
    log = []
    trainer.fit(SimpleNamespace(path=None, writes=False, log=log.append, draw=lambda baselines: None))
    return trainer, [record for record in log if record["kind"] == "train"]


def weights(trainer):
    return trainer.model.state_dict()


def norm_of(gradients):
    return float(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm())


@pytest.mark.parametrize("optimizer", ["muon", "lamb"])
def test_a_scale_changes_no_bit(optimizer):
    plain, log = train(optimizer=optimizer)
    scaled, scaled_log = train(optimizer=optimizer, scaler=LossScaler(True, patience=3))
    assert all(torch.equal(one, other) for one, other in zip(weights(plain).values(), weights(scaled).values()))
    assert [record["loss"] for record in log] == [record["loss"] for record in scaled_log]
    assert scaled.scaler.scale == 2.0 ** 20 and [record["loss_scale"] for record in log] == [1.0] * 12


def test_an_overflow_is_skipped_and_counted():
    """Under two optimisers: neither moves a weight. The scale halves, and training goes on."""
    trainer, log = train(3, Task(blow_up=(3,)), LossScaler(True))
    assert trainer.scaler.scale == 2.0 ** 15 and log[-1]["skipped_steps"] == 1
    assert not {"loss", "gradient_norm"} & set(log[-1])                          # JSON has no infinity
    longer, log = train(6, Task(blow_up=(3, 4)), LossScaler(True))
    assert [record["skipped_steps"] for record in log] == [0, 0, 1, 1, 0, 0] and longer.scaler.scale == 2.0 ** 14
    assert all(torch.isfinite(weight).all() for weight in weights(longer).values())


def test_a_skipped_update_leaves_the_weights():
    trainer, _ = train(2)
    before = copy.deepcopy(weights(trainer))
    trainer.scaler, trainer.task.blow_up = LossScaler(True), (3,)
    position, batches = next(trainer.task.updates({"step": 2}))
    trainer._update(batches, SimpleNamespace(signal=0))
    assert all(torch.equal(one, other) for one, other in zip(weights(trainer).values(), before.values()))


def test_a_signal_that_comes_as_the_update_is_agreed_on_counts_in_the_next():
    """Else one process would leave, and the others wait for it."""
    class Others(World):
        """Hears of the signal once its own flag is on its way."""

        def sum(self, values):
            summed = super().sum(values)
            received.signal = signal.SIGINT
            return summed
    received = SimpleNamespace(signal=0)
    trainer, _ = train(2)
    trainer.world = Others(0, 1, CPU)
    updates = trainer.task.updates({"step": 2})
    trainer._update(next(updates)[1], received)
    assert not trainer.stopped
    trainer._update(next(updates)[1], received)
    assert trainer.stopped == signal.SIGINT


def test_a_signal_in_the_last_evaluation_ends_the_run():
    class Told(Task):
        def metrics(self, outputs):
            signal.raise_signal(signal.SIGTERM)
            return {"loss": 1.0}
    trainer, log = train(2, Told())
    assert trainer.stopped == signal.SIGTERM and log[-1]["step"] == 2


def test_a_signal_that_another_process_has_heard_ends_this_one():
    class Others(World):
        def sum(self, values):
            return [*values[:-1], signal.SIGINT]
    trainer, _ = train(2)
    trainer.world = Others(0, 1, CPU)
    trainer._update(next(trainer.task.updates({"step": 2}))[1], SimpleNamespace(signal=0))
    assert trainer.stopped == signal.SIGTERM


def test_a_second_interrupt_ends_at_once_and_handlers_are_given_back():
    former = signal.signal(signal.SIGINT, signal.default_int_handler)       # what a shell starts behind itself ignores it
    try:
        before = [signal.getsignal(number) for number in signals.ENDING]
        with signals.noted() as received:
            signal.raise_signal(signal.SIGINT)
            assert received.signal == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert [signal.getsignal(number) for number in signals.ENDING] == before
    finally:
        signal.signal(signal.SIGINT, former)


def test_a_hangup_that_nohup_has_silenced_is_not_heard():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.noted() as received:
            signal.raise_signal(signal.SIGHUP)
            assert not received.signal
    finally:
        signal.signal(signal.SIGHUP, former)


def test_dropout_and_gradients_are_for_training_alone():
    class Watching(Task):
        seen = {"sums": set(), "predict": set()}

        def sums(self, model, batch):
            self.seen["sums"].add((model.training, torch.is_grad_enabled()))
            return super().sums(model, batch)

        def evaluation(self):
            return [{"ids": torch.ones(1, 10, dtype=torch.long)}]

        def predict(self, model, batch):
            self.seen["predict"].add((model.training, torch.is_grad_enabled()))
            return {}, None
    train(4, Watching(), eval_every=2)
    assert Watching.seen == {"sums": {(True, True)}, "predict": {(False, False)}}


def test_a_gradient_that_is_not_finite_stops_the_run_though_the_loss_is():
    class Steep(Task):
        def sums(self, model, batch):
            return {"mlm_loss": super().sums(model, batch)["mlm_loss"] + (0 * model.mlm_head.bias.sum()).sqrt()}
    with pytest.raises(RunError, match="not finite at step 1, .* none was saved"):
        train(3, Steep())


def test_what_diverges_names_the_last_good_checkpoint(tmp_path):
    trainer, _ = train(1)
    trainer._saved, trainer.run = 4, SimpleNamespace(path=tmp_path, checkpoints=tmp_path / "checkpoints")
    assert f"last good checkpoint: {tmp_path}/checkpoints/step-0000004;" in trainer._diverged(2)


def test_a_line_of_the_log_is_the_mean_of_its_own_updates():
    (_, each), (_, both) = train(4), train(4, log_every=2)
    losses = [record["loss"] for record in each]
    assert [record["loss"] for record in both] == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:]) / 2])
    assert [record["tokens"] for record in both] == [288, 576]
    assert Trainer._scores({"mlm": 2, "mlm_loss": 4.0, "mlm_correct": 1, "sentence": 4, "sentence_loss": 2.0}) == {
        "loss": 2.5, "mlm_loss": 2.0, "mlm_accuracy": 0.5, "sentence_loss": 0.5}


def test_of_equal_scores_the_step_of_the_least_loss_is_kept():
    class Saturated(Task):
        losses = [0.9, 0.6, 0.4, 0.5]

        def metrics(self, outputs):
            return {"loss": self.losses[self.step - 1]}

        def goodness(self, scores):
            return 1.0
    trainer, _ = train(4, Saturated(), eval_every=1)
    assert trainer.best == {"step": 3, "score": 1.0, "loss": 0.4}


def test_weights_lie_as_products_like_them_wherever_they_come_from(tmp_path):
    """The pages of a file begin where its header ends, and products of a single row are summed up by that."""
    model_of().save_pretrained(tmp_path)
    trainer, _ = train(1, model=AlbertForPretraining.from_pretrained(tmp_path))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in trainer.model.state_dict().values())


def test_a_batch_of_little_weight_is_averaged_over_its_weight():
    class Light(Task):
        def counts(self, batch):
            return {"mlm": self.weight * super().counts(batch)["mlm"], "tokens": 1}

        def sums(self, model, batch):
            return {"mlm_loss": self.weight * super().sums(model, batch)["mlm_loss"]}

    norms = []
    for weight in (1.0, 1 / 128):                                 # of class_weights: in all less than 1
        Light.weight = weight
        norms.append(train(2, Light())[1][0]["gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_an_update_follows_the_gradient_of_the_mean_over_its_micro_batches():
    model, task = model_of(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0), Task()
    batches = [batch for _, batch in next(task.updates({"step": 0}))[1]]
    loss = sum(task.sums(model, batch)["mlm_loss"] for batch in batches)
    count = sum(task.counts(batch)["mlm"] for batch in batches)
    expected = norm_of(torch.autograd.grad(loss / count, list(model.parameters()), allow_unused=True))
    _, log = train(1, model=model)
    assert log[0]["gradient_norm"] == pytest.approx(expected, rel=1e-4)


def test_gradients_are_clipped(monkeypatch):
    trainer, _ = train(1, optimizer="adamw", clip_norm=0.01)
    norms = []
    monkeypatch.setattr(trainer.optimizers[0], "step", lambda: norms.append(norm_of(p.grad for p in trainer.params)))
    trainer._update(next(trainer.task.updates({"step": 1}))[1], SimpleNamespace(signal=0))
    assert norms == [pytest.approx(0.01, rel=1e-3)]


def test_weights_of_each_optimizer_follow_the_schedule_at_its_own_rate():
    trainer, log = train(3, optimizer="muon")
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert log[-1]["learning_rate"] == rates[1]
    assert rates == pytest.approx([trainer.hps.muon_learning_rate / 2, trainer.hps.learning_rate / 2])


def test_dropout_differs_between_micro_batches_updates_and_seeds(monkeypatch):
    model, seed_of, seeds = model_of(), torch.manual_seed, []

    def manual_seed(seed):
        seeds.append(seed)
        return seed_of(seed)
    monkeypatch.setattr(torch, "manual_seed", manual_seed)
    for seed in (0, 1):
        train(2, model=model, seed=seed)
    assert len(seeds) == len(set(seeds)) == 8                     # of two micro-batches each


def test_a_checkpoint_holds_what_is_not_logged_yet(monkeypatch):
    saved, (trainer, _) = [], train(2)
    monkeypatch.setattr("trainer.checkpoints.save", lambda *args: saved.append(args[-1]))
    monkeypatch.setattr("trainer.checkpoints.prune", lambda *args: None)
    trainer.run = SimpleNamespace(writes=True, checkpoints=None)
    for update in range(2):
        trainer._update(next(trainer.task.updates({"step": 2 + update}))[1], SimpleNamespace(signal=0))
    trainer.save()
    state, = saved
    assert state["window"].pop("mlm_loss") > 0 and state["window"] == {"mlm": 30, "tokens": 288}
    assert (state["tokens"], state["scaler"]) == (576, {"scale": 1.0, "good": 0})


def test_restoring_takes_up_all_of_the_state(monkeypatch):
    monkeypatch.setattr("trainer.checkpoints.restore_optimizers", lambda *args: None)
    trainer, _ = train(1)
    state = {"step": 7, "tokens": 99, "position": {"step": 7}, "window": {"mlm": 2.0, "mlm_loss": 5.0},
             "best": {"step": 4, "score": -3.0, "loss": 3.0}, "scaler": {"scale": 8.0, "good": 5}}
    trainer.restore(None, state)
    found = {name: getattr(trainer, name) for name in state}
    assert found | {"scaler": trainer.scaler.state_dict()} == state


def test_scaling_gives_up():
    with pytest.raises(RunError, match="not finite"):
        train(60, Task(blow_up=range(100)), LossScaler(True))


def test_scaling_gives_up_below_the_least_scale_alone():
    scaler = LossScaler(True, scale=2.0 ** -12)
    verdicts = []
    for _ in range(2):
        scaler.accepts(math.inf)
        verdicts.append(scaler.gives_up)
    assert verdicts == [False, True]


def test_a_scaler_is_saved():
    scaler = LossScaler(True, patience=4)
    for norm in (1.0, math.nan, 1.0, 1.0):
        scaler.accepts(norm)
    again = LossScaler(True, patience=4)
    again.load_state_dict(scaler.state_dict())
    assert (again.scale, again.good) == (2.0 ** 15, 2)


def test_float16_nystrom_stays_finite():
    """Under autocast on the CPU, with rows longer than the landmarks, dropout and loss scaling."""
    model = model_of(attention="nystrom", num_landmarks=8)
    trainer, log = train(10, scaler=LossScaler(True), dtype=torch.float16, model=model)
    assert all(torch.isfinite(weight).all() for weight in weights(trainer).values())
    reference, reference_log = train(10, model=model_of(attention="nystrom", num_landmarks=8))
    assert sum(record["skipped_steps"] for record in log) == 0
    assert [record["loss"] for record in log] == pytest.approx([record["loss"] for record in reference_log], abs=0.05)


@pytest.mark.parametrize("changes", [{}, {"attention": "nystrom", "num_landmarks": 8}, {"norm_position": "pre"},
                                     {"share": "none"}])
def test_activation_checkpointing_changes_no_gradient(changes):
    """With dropout, in as many bits as there are; and less is kept for the backward pass."""
    ids, mask = torch.randint(5, 60, (3, 40)), torch.ones(3, 40, dtype=torch.bool)
    mask[1, 20:] = False
    gradients, kept = [], []
    for flag in (False, True):
        model, sizes = model_of(**changes).train(), []
        model.albert.encoder.activation_checkpointing = flag
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            loss = model(ids, None, mask).mlm_logits.square().mean()
        loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        kept.append(sum(sizes))
    assert all(torch.equal(one, other) for one, other in zip(*gradients))
    assert kept[1] < kept[0] / 2


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["softmax", "nystrom"])
def test_compiled_training_has_the_same_losses(attention, capsys):
    changes = dict(attention=attention, num_landmarks=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                   classifier_dropout_prob=0.0)
    _, plain = train(6, model=model_of(**changes), optimizer="adamw")
    _, compiled = train(6, model=model_of(**changes), optimizer="adamw", compile=True)
    assert [r["loss"] for r in compiled] == pytest.approx([r["loss"] for r in plain], abs=1e-5)
    assert capsys.readouterr().out.count("compile: 2 blocks") == 1


@pytest.mark.parametrize("there, lines", [(True, 0), (False, 1)])
def test_bf16_without_instructions_is_said(monkeypatch, capsys, there, lines):
    monkeypatch.setattr("trainer.loop.multiplies_bf16", lambda device: there)
    train(0, precision="bf16")
    assert capsys.readouterr().out.count("precision=auto takes what is best") == lines


def test_compiling_pads_to_no_more_than_the_positions(monkeypatch):
    """Linformer has no weights for more."""
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: None)
    model = model_of(attention="linformer", num_landmarks=8, max_position_embeddings=130)
    compile_blocks(model, 130, CPU)
    assert model(torch.randint(5, 50, (2, 130))).mlm_logits.shape[1] == 130


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RunError, match="no-such-compiler"):
        compile_blocks(model_of(), 64, CPU)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RunError, match="gcc, clang"):
        compile_blocks(model_of(), 64, torch.device("cuda"))


def test_pre_ln_sums_in_float32():
    """Post-LN's sums are normalised at once; those of pre-LN run through all layers."""
    model, sums = model_of(norm_position="pre"), []
    for block in (*model.albert.encoder.attention, *model.albert.encoder.feed_forward):
        block.register_forward_hook(lambda module, inputs, output: sums.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randint(5, 60, (2, 20)))
    assert sums == [torch.float32] * 6
    assert model_of(norm_position="pre").double()(torch.randint(5, 60, (2, 20))).mlm_logits.dtype == torch.float64


def test_attention_is_not_left_to_cudnn():
    torch.backends.cuda.enable_cudnn_sdp(True)
    train(0)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_update_on_another_device_neither_mixes_devices_nor_waits(kind, padded, monkeypatch):
    """On PyTorch's device of tensors without data, as a stand-in for a GPU, an operation with a tensor of the CPU fails, and
    so does whatever would read a number back. That device knows no autocast."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())

    class Rows(Task):
        count_names, sum_names, sums = Pretraining.count_names, Pretraining.sum_names, Pretraining.sums

        def counts(self, batch):
            return {"mlm": 5, "sentence": 2, "tokens": 100}
    batch = {"input_ids": torch.full((2, 64), 7), "token_type_ids": torch.zeros(2, 64, dtype=torch.int64),
             "attention_mask": torch.arange(64).lt(64 - 28 * padded).expand(2, 64),
             "masked_positions": torch.arange(5), "mlm_labels": torch.arange(5), "sentence_labels": torch.tensor([0, NO_LABEL])}
    hps = SimpleNamespace(**vars(HPS["pretrain", "tiny"]))
    vars(hps).update(optimizer="lamb", max_steps=2, warmup_steps=1, seq_len=64, precision="fp32")
    model = model_of(attention=kind, num_landmarks=16, block_size=8, attention_window=16, conv_kernel_size=9)
    trainer = Trainer(Rows(), model, None, hps, World(0, 1, torch.device("meta")), quiet=True)
    for _ in range(2):
        norm = trainer._update([(0, batch), (1, batch)], SimpleNamespace(signal=0))
    assert norm.device.type == "meta"
    with pytest.raises(RuntimeError):
        float(norm)
