"""The training loop, for every task: updates, schedule, log, evaluation, checkpoints.

Every random draw is a pure function of (seed, what for, step, global micro-batch number), so a run that is
resumed, or goes on with another number of processes, is the same run.
"""
import math
import signal
import time
from contextlib import contextmanager
from functools import cached_property

import torch
from tqdm import tqdm

from data import draws
from trainer import checkpoints, signals
from trainer.compiling import compile_blocks
from trainer.errors import Diverged
from trainer.flops import flops_per_token, peak_flops
from trainer.fused import fuse
from trainer.machine import autocast, autocast_dtype, choose_attention_backend, moved, multiplies_bf16, peak_memory
from trainer.optimizers import build_optimizers, schedule
from trainer.profiling import profiled
from trainer.scaling import LossScaler


class Trainer:
    """Trains ``model`` on ``task``, an object like ``trainer.pretraining.Pretraining``.

    A task gives batches by ``position()``, ``updates(position)`` and ``evaluation()``; for each ``sums(model, batch)`` of
    losses (named ``sum_names``) and ``counts(batch)`` (``count_names``) by which they are divided, and the ``read_share`` of
    the tokens that its heads read. In evaluation ``predict(model, batch)``, ``metrics(outputs)`` of all that it put out,
    ``goodness(scores)`` for the best checkpoint, ``baselines()`` for the picture and ``summary(scores)`` in words; what was
    fine-tuned also has ``predictions`` and ``files``.

    ``hps`` has passed `hps.check`. ``quiet`` prints plain lines in place of a bar. ``profile``: updates to profile.
    """

    def __init__(self, task, model, tokenizer, hps, world, quiet=False, profile=0):
        self.task, self.tokenizer, self.hps, self.world, self.quiet = task, tokenizer, hps, world, quiet
        for tensor in (*model.parameters(), *model.buffers()):      # pages of a file may lie at any address, by which
            tensor.data = tensor.data.clone()                       # products of few rows round differently
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(world.device)        # of the runs before, in a sweep
        self.model, self.profile = model.to(world.device), profile if world.is_main else 0
        world.spread(self.model.state_dict().values())
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.dtype = world.gather([autocast_dtype(hps.precision, world.device)])[0]       # machines may differ
        if self.dtype == torch.bfloat16 and not multiplies_bf16(world.device):
            world.print("precision=bf16: this machine has no instructions for it, float32 is many times faster here; "
                        "--set precision=auto takes what is best")
        if self.dtype is None and hps.precision == "auto" and world.device.type == "cuda":
            world.print("precision=auto: this GPU has no bf16 and computes in float32; --set precision=fp16 should be faster")
        if (parts := -(-hps.batch_size // hps.micro_batch_size)) < world.size:
            world.print(f"batch_size={hps.batch_size} is {parts} micro-batches of {hps.micro_batch_size}, for {world.size} "
                        "processes: the others wait; a smaller --set micro_batch_size shares the work out")
        choose_attention_backend(self.dtype, world.device, hps.seq_len)
        self.optimizers = build_optimizers(model, hps)
        self.scaler = LossScaler(enabled=self.dtype == torch.float16)
        self.model.albert.encoder.activation_checkpointing = hps.activation_checkpointing
        if hps.compile:
            world.print(compile_blocks(self.model, hps.seq_len, world.device))
        elif hps.fused and world.device.type == "cpu":
            fuse(self.model, self.dtype or torch.float32)
        self.step, self.tokens, self.position = 0, 0, task.position()
        self.best = {"step": None, "score": -math.inf, "loss": math.inf}
        self.window = {}               # sums since the last log line, over all processes
        self._recent = []              # (step, counts, sums, gradient norm) of updates that are not in the window yet
        self.stopped = 0               # the signal that ended the training early
        self._saved = None             # step of the newest checkpoint

    @cached_property
    def _peak_flops(self):
        return self.world.size * peak_flops(self.world.device, self.dtype)

    @cached_property
    def _eval_batches(self):
        return self.task.evaluation()

    @property
    def precision(self):
        return str(self.dtype or torch.float32).removeprefix("torch.")

    def restore(self, path, state):
        """Go on from a checkpoint whose weights ``model`` already has."""
        checkpoints.restore_optimizers(path, self.optimizers)
        self.scaler.load_state_dict(state["scaler"])
        self.step = self._saved = state["step"]
        self.tokens, self.position, self.window = state["tokens"], state["position"], state["window"]
        self.best = state["best"]

    def fit(self, run):
        """Train up to ``max_steps``, log and save in ``run``; returns the held-out scores, None where a signal
        has ``stopped`` it. Ends before that after ``patience`` evaluations (0: any number) without a better score.
        """
        self.run, hps = run, self.hps
        updates = self.task.updates(self.position)
        if self.profile:
            updates = profiled(updates, self.profile, self.world.device, run.path and run.path / "trace.json")
        scores, clock = None, _Clock(self)
        bar = tqdm(total=hps.max_steps, initial=self.step, unit="step", dynamic_ncols=True,
                   disable=self.quiet or not self.world.is_main)
        with bar, signals.noted() as received:
            while self.step < hps.max_steps and not self._gave_up:
                with clock.waiting():
                    position, micro_batches = next(updates)
                with clock.running():
                    norm = self._update(micro_batches, received)
                    self.position = position
                    last = self.step == hps.max_steps
                    due = self.step % hps.log_every == 0 or last
                    evaluates = self.step % hps.eval_every == 0 or last
                    saves = self.step % hps.save_every == 0 or last
                    if due or evaluates or saves:       # no model that has diverged is scored or saved
                        self._flush()                   # on a GPU this waits for the updates
                bar.update()
                if due:
                    self._log_window(bar, norm, clock)
                    clock = _Clock(self)
                if evaluates:
                    scores = self.evaluate()
                    self._log_evaluation(bar, scores)
                if saves or self.stopped or self.best["step"] == self.step:
                    self.save()
                if self.stopped:
                    return None
            self.save()
            if self._gave_up and self.world.is_main:
                bar.write(f"ended at step {self.step}: no better score in {hps.patience} evaluations")
            self._summed([], received)                                   # a signal that came since the last update began
            if self.stopped:
                return None
        return scores or self.evaluate()

    def _summed(self, numbers, received):
        """Numbers summed over all processes; ``stopped`` is noted on the way."""
        *sums, received_anywhere = self.world.sum([*numbers, received.signal])
        if received_anywhere:
            self.stopped = received.signal or signal.SIGTERM                     # that of this process, or another's
        return sums

    @property
    def _gave_up(self):
        best, patience = self.best["step"], self.hps.patience * self.hps.eval_every
        return 0 < patience <= self.step - (best or 0)

    def _update(self, micro_batches, received):
        """One optimiser step; returns the gradient norm."""
        device = self.world.device
        batches = [(number, moved(batch, device)) for number, batch in micro_batches]
        counted = [self.task.counts(batch) for _, batch in micro_batches]         # `moved` may leave a mask behind
        names = self.task.count_names
        totals = dict(zip(names, self._summed([sum(c[name] for c in counted) for name in names], received)))
        self.step += 1
        self.tokens += int(totals["tokens"])

        share = schedule(self.step, self.hps.warmup_steps, self.hps.max_steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share

        self.model.train()
        sums = {}
        for number, batch in batches:
            torch.manual_seed(draws.key(self.hps.seed, "dropout", self.step, number))
            with autocast(self.dtype, device):
                parts = self.task.sums(self.model, batch)
            loss = sum(parts[f"{name}_loss"] / (totals[name] or 1) for name in names if f"{name}_loss" in parts)
            (loss * self.scaler.scale).backward()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0) + value.detach()
        self.world.sum_gradients(self.params)
        self.scaler.unscale(self.params)
        norm = torch.nn.utils.clip_grad_norm_(self.params, self.hps.clip_norm)
        accepted = self.scaler.accepts(norm)
        for optimizer in self.optimizers:
            if accepted:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._recent.append((self.step, totals, sums, norm))
        return norm

    def _flush(self):
        """Add the recent updates to the window; raise Diverged at the first whose loss or gradient is not finite, unless
        the loss is scaled and a smaller scale may help: such an update was skipped, and is counted."""
        if not self._recent:
            return
        names = self.task.sum_names
        rows = [torch.stack([torch.as_tensor(sums.get(name, 0.0), dtype=torch.float64, device=self.world.device)
                             for name in names]) for _, _, sums, _ in self._recent]
        summed = self.world.sum(torch.stack(rows).flatten().tolist())
        for number, (step, totals, _, norm) in enumerate(self._recent):
            row = dict(zip(names, summed[number * len(names):(number + 1) * len(names)]))
            if not all(map(math.isfinite, (*row.values(), float(norm)))):
                if self.scaler.gives_up:
                    raise Diverged(self._diverged(step))
                row, totals = {"skipped": 1.0}, {}
            for name, value in {**row, **totals}.items():
                self.window[name] = self.window.get(name, 0.0) + value
        self._recent.clear()

    def _diverged(self, step):
        rate = self.hps.learning_rate * schedule(step, self.hps.warmup_steps, self.hps.max_steps)
        saved = None not in (self._saved, self.run.path)
        good = self.run.checkpoints / f"step-{self._saved:07d}" if saved else "none was saved"
        return (f"the loss is not finite at step {step}, learning rate {rate:.3g}; last good checkpoint: {good}; "
                f"start again with a lower --set learning_rate")

    def _log_window(self, bar, norm, clock):
        window, self.window = self.window, {}
        steps, tokens = self.step - clock.step, self.tokens - clock.tokens
        scores = self._scores(window)
        if not self.world.is_main:
            return
        speed, hps = tokens / clock.seconds, self.hps
        flops = flops_per_token(self.model.config, hps.seq_len, getattr(hps, "mask_prob", 0.0), self.task.read_share)
        record = {"kind": "train", "step": self.step, "tokens": self.tokens, **scores,
                  "learning_rate": self.optimizers[-1].param_groups[0]["lr"],
                  **({"gradient_norm": float(norm)} if math.isfinite(norm) else {}), "loss_scale": self.scaler.scale,
                  "skipped_steps": int(window.get("skipped", 0)), "tokens_per_second": speed,
                  "mfu": speed * flops / self._peak_flops, "data_wait_share": clock.waited / clock.seconds,
                  "peak_memory": peak_memory(self.world.device)}
        self.run.log(record)
        words = f"{_words(scores)}  lr {record['learning_rate']:.2e}  {speed:,.0f} tokens/s"
        bar.set_postfix_str(words)
        if self.quiet:
            left = (self.hps.max_steps - self.step) * clock.seconds / steps / 60
            print(f"step {self.step}/{self.hps.max_steps}  {words}  left {left:.1f} min", flush=True)

    def _log_evaluation(self, bar, scores):
        score, loss = self.task.goodness(scores), scores["loss"]
        if (score, -loss) > (self.best["score"], -self.best["loss"]):                  # of equal scores the surest
            self.best = {"step": self.step, "score": score, "loss": loss}
        if not self.world.is_main:
            return
        record = {"kind": "eval", "step": self.step, "tokens": self.tokens, **scores}
        self.run.log(record)
        self.run.draw(self.task.baselines())
        bar.write(f"step {self.step}: held out  {_words(scores)}")

    @staticmethod
    def _scores(totals):
        """Means of a dictionary of sums: {"loss", "mlm_loss", "mlm_accuracy", ...}."""
        scores = {}
        for name, value in totals.items():
            part, _, what = name.rpartition("_")
            if what in ("loss", "correct") and totals.get(part):
                scores[f"{part}_{'accuracy' if what == 'correct' else 'loss'}"] = value / totals[part]
        losses = [value for name, value in scores.items() if name.endswith("_loss")]
        return {"loss": sum(losses), **scores} if losses else {}

    def evaluate(self):
        """Held-out scores, summed exactly over all processes: {"loss", "mlm_loss", "mlm_accuracy", ...}. Raises Diverged where
        the loss is not finite."""
        scores, outputs = self.predict(self._eval_batches)
        if not math.isfinite(scores.get("loss", 0.0)):
            raise Diverged(self._diverged(self.step))
        return {**scores, **self.task.metrics(outputs)}

    @torch.no_grad()
    def predict(self, batches):
        """Mean losses over this and the other processes' batches, and what ``task.predict`` puts out for each."""
        self.model.eval()
        totals, outputs = dict.fromkeys((*self.task.count_names, *self.task.sum_names), 0.0), []
        for batch in batches:
            with autocast(self.dtype, self.world.device):
                sums, output = self.task.predict(self.model, moved(batch, self.world.device))
            outputs.append(output)
            for name, value in {**self.task.counts(batch), **sums}.items():
                totals[name] = totals[name] + (value.double() if torch.is_tensor(value) else value)    # waits for no GPU
        return self._scores(dict(zip(totals, self.world.sum(map(float, totals.values()))))), self.world.gather(outputs)

    def save(self, again=False):
        """Write a checkpoint of this step; one that is there stays, unless it is to be written ``again``."""
        self._flush()
        if self._saved == self.step and not again:
            return
        if self.run.writes:
            state = {"tokens": self.tokens, "position": self.position, "window": self.window, "best": self.best,
                     "seed": self.hps.seed, "scaler": self.scaler.state_dict()}
            checkpoints.save(self.run.checkpoints, self.step, self.model, self.tokenizer, self.optimizers, state)
            checkpoints.prune(self.run.checkpoints, self.hps.keep_checkpoints, self.best["step"], self.step)
        self._saved = self.step
        self.world.barrier()


def _words(scores):
    return "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores.items())


class _Clock:
    """Seconds that updates took since a log line, those spent waiting for data among them."""

    def __init__(self, trainer):
        self.step, self.tokens, self.seconds, self.waited = trainer.step, trainer.tokens, 0.0, 0.0

    @contextmanager
    def running(self):
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start

    @contextmanager
    def waiting(self):
        before = self.seconds
        with self.running():
            yield
        self.waited += self.seconds - before
