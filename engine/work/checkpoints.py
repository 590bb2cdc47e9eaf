"""A trainer's checkpoints: complete or not there, and with all that a resumed training needs to be the same one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from engine.runs.checkpoints import put_in_place, remove_older, seal
from engine.runs.folder import Folder
from engine.runs.record import write_text
from engine.work.ranks import Ranks


class AtomicCheckpoints:
    """Mixed into a transformers trainer: a checkpoint appears under its name only when it is complete.

    Beside what transformers keeps, it holds what the next log line averages, so that the losses logged after a resume
    are those of a training that was never stopped.
    """

    _unfinished: Path | None = None
    _to_restore: Path | None = None
    _knows_earlier_loss = False

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._unfinished) if self._unfinished else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save into a folder of another name, then rename; the first of several ranks does what is done once."""
        ranks = Ranks.here()
        folder = Path(self.args.output_dir)
        unfinished = Folder(folder).saving
        if ranks.is_first:
            shutil.rmtree(unfinished, ignore_errors=True)
        ranks.together()
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # counted below, where the others lie
        self._unfinished = unfinished
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._unfinished = None
            self.args.save_total_limit = limit
        step = self.state.global_step
        made, target = unfinished / f"checkpoint-{step}", folder / f"checkpoint-{step}"
        ranks.together()  # each has written its random state
        if ranks.is_first:
            seal(made)
            put_in_place(made, target)
        ranks.together()
        if ranks.is_first_here and made.is_dir():  # a machine that does not share the first one's disk
            seal(made)
            put_in_place(made, target)
        best = folder / f"checkpoint-{self.state.best_global_step}"
        if best.is_dir():
            self.state.best_model_checkpoint = str(best)
        if ranks.is_first:
            shutil.rmtree(unfinished, ignore_errors=True)
            remove_older(folder, step, limit, self.state.best_global_step)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        ranks = Ranks.here()
        mine = {name: torch.cat(values).tolist() for name, values in getattr(self, "_noted", {}).items()}
        noted: dict[str, list[float]] = {}
        for of_a_rank in ranks.gathered(mine):
            for name, values in of_a_rank.items():
                noted.setdefault(name, []).extend(values)
        losses = ranks.gathered(self._tr_loss.item())
        content = {  # of all ranks together, so that another number of them can go on with it
            "loss": sum(losses) / len(losses),
            "logged_loss": self._total_loss_scalar,
            "logged_step": self._globalstep_last_logged,
            "noted": noted,
        }
        if ranks.is_first_here:
            write_text(self._log_state(Path(output_dir)), json.dumps(content))

    def _init_training_state(self, *given: Any, **named: Any) -> Any:
        reached = super()._init_training_state(*given, **named)
        resumed = named.get("resume_from_checkpoint", given[3] if len(given) > 3 else None)
        self._to_restore = self._log_state(Path(resumed)) if resumed else None
        self.state.train_batch_size = self._train_batch_size  # not the one that the checkpoint was made with
        return reached

    def _run_epoch(self, *given: Any, **named: Any) -> None:
        self._restore_log_state()
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True  # killed after the last step; transformers 5.23 would do one more
            return
        super()._run_epoch(*given, **named)

    def _finalize_training(self, *given: Any, **named: Any) -> Any:
        """As the parent's, but the mean loss is that of the whole training, also of the steps before a resume."""
        self._restore_log_state()
        if self._knows_earlier_loss:
            loss = self._tr_loss.item()
            mean = (self._total_loss_scalar + loss) / self.state.global_step
            steps = max(self.state.global_step - self._initial_global_step, 0.001)  # what the parent divides by
            self._total_loss_scalar = mean * steps - loss
        return super()._finalize_training(*given, **named)

    def _restore_log_state(self) -> None:
        """Take up what the next log line averages; a checkpoint of another program does not know it."""
        path, self._to_restore = self._to_restore, None
        if path is None or not path.is_file():
            return
        content = json.loads(path.read_text(encoding="utf-8"))
        self._tr_loss = torch.tensor(content["loss"], device=self.args.device)
        self._total_loss_scalar = content["logged_loss"]
        self._globalstep_last_logged = content["logged_step"]
        self._knows_earlier_loss = True
        if content["noted"] and Ranks.here().is_first:
            self._noted = {name: [torch.tensor(values)] for name, values in content["noted"].items()}

    def _log_state(self, checkpoint: Path) -> Path:
        return checkpoint / "log_state.json"

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As the parent's, but a learning rate that was changed since is not undone by what the checkpoint holds."""
        scheduler = self.lr_scheduler
        asked = list(getattr(scheduler, "base_lrs", ()))
        super()._load_optimizer_and_scheduler(checkpoint)
        if not isinstance(scheduler, LambdaLR) or asked == scheduler.base_lrs:
            return
        scheduler.base_lrs = asked
        for group, rate, share in zip(self.optimizer.param_groups, asked, scheduler.lr_lambdas, strict=True):
            group["initial_lr"] = rate
            group["lr"] = rate * share(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]
