"""The plain loop that ``sft.py --plain`` compares with: transformers' Trainer and collator, peft, nothing of ours.

Only the rows are encoded by Lathe, so that both learn the same tokens of the same examples in the same steps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work.dataset import prepare

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Notes(TrainerCallback):
    def __init__(self, output: Path) -> None:
        self._output = output

    def on_log(self, args, state, control, logs=None, **given) -> None:
        with (self._output / "trainer_log.jsonl").open("a") as file:
            file.write(json.dumps({"current_steps": state.global_step, **logs}) + "\n")


def main(output: Path) -> None:
    (output / "trainer_log.jsonl").unlink(missing_ok=True)
    job = TrainJob.from_values(json.loads((output / "options.json").read_text()))
    set_seed(job.seed)
    tokenizer = AutoTokenizer.from_pretrained(job.model_name_or_path)
    rows = prepare(job, tokenizer, Recorder(Folder(output))).train
    plain = [{"input_ids": row.input_ids, "labels": row.labels} for row in rows]
    model = AutoModelForCausalLM.from_pretrained(job.model_name_or_path, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM"))
    arguments = TrainingArguments(
        str(output), use_cpu=not torch.cuda.is_available(), report_to=[], logging_steps=1, seed=job.seed,
        learning_rate=job.learning_rate, num_train_epochs=job.num_train_epochs, lr_scheduler_type="cosine",
        per_device_train_batch_size=job.per_device_train_batch_size, save_strategy="no", disable_tqdm=True,
        gradient_accumulation_steps=job.gradient_accumulation_steps, max_grad_norm=job.max_grad_norm,
        gradient_checkpointing=False, remove_unused_columns=False,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(tokenizer, model=None, label_pad_token_id=-100)
    trainer = Trainer(model, arguments, data_collator=collator, train_dataset=plain, callbacks=[Notes(output)])
    outcome = trainer.train()
    (output / "train_results.json").write_text(json.dumps(outcome.metrics))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
